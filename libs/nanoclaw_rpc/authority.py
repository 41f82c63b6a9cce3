"""The certificate authority of one home: makes the services' and operators' certificates, and its own successor."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nanoclaw_core.clock import Clock, utc_now
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import issuing, private
from nanoclaw_rpc.certificates import hosts_of, principal_of
from nanoclaw_rpc.credentials import SERVICES
from nanoclaw_rpc.tls import Tls, folder_of

CERTIFICATE_DAYS = 365
AUTHORITY_DAYS = 3650


@dataclass(frozen=True, slots=True)
class Held:
    """A principal's certificate. path: its file. is_current: whether the newest authority has made it."""

    principal: str
    path: Path
    certificate: x509.Certificate
    is_current: bool


class Authority:
    """The authority whose bundle and key lie in `tls` of a folder of secrets: `ca.crt`, the newest first, and `ca.key`.

    key: where the key is, if it is kept elsewhere. Changes are made under a lock, each file whole or not at all, and
    none is overwritten but by `renew`, `succeed` and `retire`. One that was broken off is ended by the next, or by
    being made again.
    """

    def __init__(self, secrets: Path, *, key: Path | None = None, now: Clock = utc_now) -> None:
        self._secrets = secrets.absolute()
        self.folder = self._secrets / "tls"
        self.bundle = self.folder / "ca.crt"
        self.key = key or self.folder / "ca.key"
        self._now = now

    def create(self, *, days: int, authority_days: int, hosts: Mapping[str, Sequence[str]]) -> list[Held]:
        """Makes the authority and the services' certificates, or those of them that a broken-off run has left out.
        hosts: further names and addresses, by service.

        Raises CERTIFICATES_EXIST, INVALID_FIELD.
        """
        names = {name: issuing.host_names(name, hosts.get(name, ())) for name in SERVICES}
        with self._locked():
            begun = self.bundle.exists() and self.lacking()
            for path in (self.bundle, self.key):
                if path.exists() and not begun:
                    raise NanoclawError(
                        Kind.CONFLICT,
                        "CERTIFICATES_EXIST",
                        f"there is an authority already: {path}",
                        next_step="renew its certificates with `nanoclaw certs renew`, or move the folder away first",
                    )
            if not begun:
                self._write_authority([], authority_days)
            for name in self.lacking():
                self._issue(f"service:{name}", names[name], days)
        return self.held()

    def lacking(self) -> list[str]:
        """The services that have no certificate here."""
        of = {name: f"service:{name}" for name in SERVICES}
        return [name for name, one in of.items() if not Tls(folder_of(self._secrets, one), one).certificate.exists()]

    @property
    def has_key(self) -> bool:
        """Whether it can sign: its key is here."""
        return self.key.exists() or self._following.exists()

    def issue(self, principal: str, *, days: int) -> Held:
        """Makes an operator's certificate. Raises CERTIFICATES_EXIST, NO_AUTHORITY, AUTHORITY_KEY."""
        path = Tls(folder_of(self._secrets, principal), principal).certificate
        with self._locked():
            if path.exists():
                raise NanoclawError(
                    Kind.CONFLICT,
                    "CERTIFICATES_EXIST",
                    f"{principal} has a certificate already: {path}",
                    next_step=f"renew it with `nanoclaw certs renew {principal}`",
                )
            self._issue(principal, [], days)
        return next(one for one in self.held() if one.principal == principal)

    def renew(self, principals: Sequence[str] = (), *, days: int, within: int | None = None) -> list[Held]:
        """Makes certificates anew, with new keys, the same names, signed by the newest authority; answers the new ones.

        principals: whose, empty for all. within: only those that end within so many days.
        Raises CERTIFICATE_NOT_FOUND, NO_AUTHORITY, AUTHORITY_KEY.
        """
        with self._locked():
            held = {one.principal: one for one in self.held()}
            self._spread()  # who signs now may be new, and not known to all yet
            for principal in principals:
                if principal not in held:
                    raise NanoclawError(
                        Kind.NOT_FOUND,
                        "CERTIFICATE_NOT_FOUND",
                        f"{principal} has no certificate here",
                        next_step=f"here are {', '.join(held) or 'none'}",
                    )
            end = None if within is None else self._now() + timedelta(days=within)
            renewed = [
                one
                for principal, one in held.items()
                if (not principals or principal in principals)
                and (end is None or one.certificate.not_valid_after_utc <= end)
            ]
            for one in renewed:
                self._issue(one.principal, hosts_of(one.certificate), days)
        return [one for one in self.held() if one.principal in {each.principal for each in renewed}]

    def succeed(self, *, days: int) -> list[x509.Certificate]:
        """Makes a new authority, which signs from now on; the old ones stay trusted until `retire`. Answers all.

        The key of the old one is replaced.
        """
        with self._locked():
            self._check_key(self.authorities()[0])
            self._write_authority(self.authorities(), days)
            self._spread()
        return self.authorities()

    def retire(self) -> list[x509.Certificate]:
        """Trusts the newest authority alone; answers those that are trusted no more. Raises AUTHORITY_IN_USE."""
        with self._locked():
            newest, *old = self.authorities()
            behind = [one.principal for one in self.held() if not one.is_current]
            if old and behind:
                raise NanoclawError(
                    Kind.PRECONDITION,
                    "AUTHORITY_IN_USE",
                    f"an old authority has made the certificates of {', '.join(behind)}",
                    next_step="make them anew with `nanoclaw certs renew`, and let every process take them up",
                )
            private.write(self.bundle, issuing.pem(newest))
            self._spread()
        return old

    def authorities(self) -> list[x509.Certificate]:
        """Who is trusted, the newest first. Raises NO_AUTHORITY."""
        try:
            return x509.load_pem_x509_certificates(self.bundle.read_bytes())
        except (OSError, ValueError) as error:
            raise NanoclawError(
                Kind.NOT_FOUND,
                "NO_AUTHORITY",
                f"no certificate authority can be read from {self.bundle}: {error}",
                next_step="make one with `nanoclaw certs init`, or name another home with --home",
            ) from None

    def held(self) -> list[Held]:
        """The certificates of the services and operators, by principal. Raises CERTIFICATE_UNREADABLE."""
        newest = self.authorities()[0]
        return [self._held(path, newest) for path in sorted(self.folder.glob("*/*/tls.crt"))]

    def _held(self, path: Path, newest: x509.Certificate) -> Held:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise NanoclawError(
                Kind.INVALID, "CERTIFICATE_UNREADABLE", f"{path} cannot be read: {error}", next_step="move it away"
            ) from None
        return Held(principal_of(certificate), path, certificate, _is_by(newest, certificate))

    def _issue(self, principal: str, names: Sequence[x509.GeneralName], days: int) -> None:
        authority = self.authorities()[0]
        certificate, key = issuing.certificate(
            principal, names, authority, self._check_key(authority), self._now(), timedelta(days=days)
        )
        tls = Tls(folder_of(self._secrets, principal), principal)
        private.folder(tls.folder, self._secrets)
        private.write(tls.ca, self.bundle.read_text())
        private.write(tls.key, issuing.key_pem(key))
        private.write(tls.certificate, issuing.pem(certificate))

    def _write_authority(self, others: Sequence[x509.Certificate], days: int) -> None:
        certificate, key = issuing.authority(self._now(), timedelta(days=days))
        private.write(self._following, issuing.key_pem(key))
        private.write(self.bundle, "".join(issuing.pem(one) for one in (certificate, *others)))
        self._take_up()

    @property
    def _following(self) -> Path:
        return self.key.with_name(self.key.name + ".new")

    def _take_up(self) -> None:
        """Puts the key of an authority that is in force in its place: a crash in between lost neither key."""
        with contextlib.suppress(OSError, ValueError, TypeError, NanoclawError):  # there is none, or not in force
            key = load_pem_private_key(self._following.read_bytes(), None)
            if key.public_key() == self.authorities()[0].public_key():
                self._following.replace(self.key)

    def _spread(self) -> None:
        known = self.bundle.read_text()
        for path in self.folder.glob("*/*/ca.crt"):
            if path.read_text() != known:
                private.write(path, known)

    def _check_key(self, authority: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key(self.key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise self._wrong_key(f"cannot be read: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
            raise self._wrong_key(f"is not the key of the first certificate in {self.bundle}")
        return key

    def _wrong_key(self, what: str) -> NanoclawError:
        return NanoclawError(
            Kind.PRECONDITION,
            "AUTHORITY_KEY",
            f"the authority's key {self.key} {what}",
            next_step="name the file with --ca-key",
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        private.folder(self.folder, self._secrets)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._take_up()
            yield
        finally:
            os.close(descriptor)


def _is_by(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
