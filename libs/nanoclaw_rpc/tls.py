"""Mutual TLS as a setting: whether it is on, for whom, and the folder whose three files prove it."""

from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError

PREFIX = "NANOCLAW_TLS_"
SHARED = {"tls_enabled": f"{PREFIX}ENABLED", "tls_dir": f"{PREFIX}DIR"}
"""The fields of every service's settings, and the variables that all of them read alike."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS for one principal, `service:{name}` or `operator:{name}`.

    folder: holds ca.crt (who is trusted; more than one while an authority is changed), tls.crt and tls.key, all PEM,
    under the names that Kubernetes and cert-manager give them.
    """

    folder: Path
    principal: str

    @property
    def ca(self) -> Path:
        """The authorities that the other side's certificate may come from."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """Our certificate, any intermediate ones after it."""
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        """The certificate's private key, without a passphrase."""
        return self.folder / "tls.key"


def folder_of(secrets: Path, principal: str) -> Path:
    """Where `nanoclaw certs` puts a principal's three files, below the folder of secrets."""
    kind, _, name = principal.partition(":")
    return secrets.absolute() / "tls" / f"{kind}s" / name


def from_settings(secrets: Path, principal: str, enabled: bool, folder: Path | None) -> Tls | None:
    """What the two settings mean; None for off. Raises INVALID_SETTING for a folder that nothing would use."""
    if enabled:
        return Tls(folder or folder_of(secrets, principal), principal)
    if folder is not None:
        raise NanoclawError(
            Kind.INVALID,
            "INVALID_SETTING",
            f"{SHARED['tls_dir']}={folder} has no effect while {SHARED['tls_enabled']} is off",
            next_step=f"set {SHARED['tls_enabled']}=1, or unset {SHARED['tls_dir']}",
        )
    return None
