"""What an operator sets: NANOCLAW_GOVERNANCE_*, and the few variables that all services share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core import settings
from nanoclaw_core.addresses import listening, unix_socket
from nanoclaw_governance.policy import Policy
from nanoclaw_rpc import tls

PREFIX = "NANOCLAW_GOVERNANCE_"
SHARED = {"home": "NANOCLAW_HOME", "secrets": "NANOCLAW_SECRETS", **tls.SHARED}
_POSITIVE = ("broker_seconds", "rate_factor", "heartbeat_seconds")


@dataclass(frozen=True)
class Settings:
    """secrets: NANOCLAW_SECRETS; unset: home/secrets. listen: addresses, comma separated; empty: the unix
    socket of the home. broker: the broker's address; empty: its socket in the home. strict, trust_main,
    rate_factor: see policy.Policy. heartbeat_seconds: of WatchTasks.
    drain_seconds: for RPCs under way when stopped. metrics: loopback host:port, empty: none. allow_remote: listen
    beyond loopback in clear text. tls_enabled, tls_dir: see nanoclaw_rpc.tls.
    """

    home: Path = Path("var")
    secrets: Path | None = None
    listen: str = ""
    broker: str = ""
    broker_seconds: float = 1.0
    strict: bool = False
    trust_main: bool = False
    rate_factor: int = 1
    heartbeat_seconds: float = 10.0
    drain_seconds: float = 5.0
    metrics: str = ""
    allow_remote: bool = False
    tls_enabled: bool = False
    tls_dir: Path | None = None

    @property
    def tls(self) -> tls.Tls | None:
        """Mutual TLS for TCP, listening and dialling. Raises INVALID_SETTING."""
        return tls.from_settings(self.secrets_folder, "service:governance", self.tls_enabled, self.tls_dir)

    @property
    def secrets_folder(self) -> Path:
        """Where tokens and keys lie."""
        return self.secrets or self.home / "secrets"

    @property
    def addresses(self) -> list[str]:
        """Where to listen."""
        return listening(self.listen, self.home, "governance")

    @property
    def broker_address(self) -> str:
        """Where the broker listens."""
        return self.broker or unix_socket(self.home, "broker")

    @property
    def policy(self) -> Policy:
        """The policy that holds."""
        return Policy(strict=self.strict, trust_main=self.trust_main, rate_factor=self.rate_factor)


def load(environ: Mapping[str, str]) -> Settings:
    """From the environment. Raises UNKNOWN_SETTING, INVALID_SETTING."""
    return settings.load(Settings, PREFIX, environ, shared=SHARED, strict=(tls.PREFIX,), positive=_POSITIVE)
