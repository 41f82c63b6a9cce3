"""Who is at the other end of a connection, from the certificate that its handshake has proved."""

import time
from collections.abc import Callable
from typing import Any

from cryptography import x509

from nanoclaw_core.errors import unauthenticated
from nanoclaw_rpc.certificates import principal_of

_MOST = 1024
_RENEW = "renew it with `nanoclaw certs renew`, and connect again"
_CERTIFICATE = "connect with one: `nanoclaw certs operator` makes it, and docs/tls.md says how it is used"


class Peers:
    """Principals by certificate; each certificate is parsed once, not for each call.

    The certificate itself is the key: an address is somebody else's as soon as its connection has closed.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._known: dict[bytes, tuple[str, float]] = {}

    def principal(self, context: Any) -> str:
        """The principal of a call's connection; empty for a unix socket. Raises UNAUTHENTICATED, with a reason."""
        facts = context.auth_context()
        found = facts.get("x509_pem_cert")
        if found is None:
            if b"ssl" in facts.get("transport_security_type", ()):
                raise unauthenticated("NO_CERTIFICATE", "a TLS connection without a certificate", _CERTIFICATE)
            return ""
        principal, until = self._known.get(found[0]) or self._parse(found[0])
        if not principal:
            raise unauthenticated(
                "UNKNOWN_CERTIFICATE",
                "the certificate names no principal",
                "use one of `nanoclaw certs`, with a URI such as spiffe://nanoclaw/operator/ana",
            )
        if self._now() >= until:  # a connection may outlive the certificate it began with
            raise unauthenticated(
                "EXPIRED_CERTIFICATE",
                f"the certificate of {principal} has expired",
                _RENEW,
            )
        return principal

    def _parse(self, pem: bytes) -> tuple[str, float]:
        certificate = x509.load_pem_x509_certificate(pem)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[pem] = principal_of(certificate), certificate.not_valid_after_utc.timestamp()
        return self._known[pem]
