"""Both halves of mutual TLS for grpc, from files that may change: each new handshake takes what lies there then."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import cast

import grpc
import structlog

from nanoclaw_core.clock import Clock, utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import certificates
from nanoclaw_rpc.certificates import Material
from nanoclaw_rpc.tls import Tls

EXPIRES_SOON = timedelta(days=14)

log = structlog.get_logger("nanoclaw.tls")

_Stamp = tuple[tuple[int, int, int], ...]


class Handshake:
    """What we bring to handshakes. Read once when made, which raises as certificates.read does.

    Files that cannot be used, half-way through being changed for instance, leave what was read before in force. Threads
    may share it: grpc asks a server's in threads of its own.
    """

    def __init__(self, tls: Tls, *, now: Clock = utc_now) -> None:
        self._tls = tls
        self._now = now
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._material = certificates.read(tls)
        self._told_expiry()

    def current(self) -> Material:
        """The material that holds now; the same object until the files have changed."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._material = certificates.read(self._tls)
                except NanoclawError as error:
                    log.error("certificate not reloaded", reason=error.reason, message=error.message)
                else:
                    log.info("certificate reloaded", principal=self._tls.principal, until=str(self._material.until))
                    self._told_expiry()
            return self._material

    def server(self) -> grpc.ServerCredentials:
        """Credentials of a server that asks every client for a certificate."""
        served = self._material

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            material = self.current()
            if material is served:
                return None
            served = material
            return _configuration(material)

        initial, fetcher = _configuration(served), cast(Callable[[], grpc.ServerCertificateConfiguration], fetch)
        return grpc.dynamic_ssl_server_credentials(initial, fetcher, require_client_authentication=True)

    def _look(self) -> _Stamp:
        stamps = []
        for path in (self._tls.ca, self._tls.certificate, self._tls.key):
            try:
                stat = path.stat()
                stamps.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)

    def _told_expiry(self) -> None:
        left = self._material.until - self._now()
        if left < EXPIRES_SOON:
            log.warning(
                "certificate expires soon" if left > timedelta(0) else "certificate has expired",
                principal=self._tls.principal,
                until=str(self._material.until),
                next_step="renew it with `nanoclaw certs renew`",
            )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.ca)


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Credentials of a channel."""
    return grpc.ssl_channel_credentials(material.ca, material.key, material.certificate)
