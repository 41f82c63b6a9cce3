"""The server: every listed RPC behind the same concerns, reflection and health beside them, a drained stop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from nanoclaw_core.addresses import is_loopback
from nanoclaw_rpc import health
from nanoclaw_rpc.access import Access
from nanoclaw_rpc.credentials import Credentials
from nanoclaw_rpc.listen import UnixListener, bind_tcp
from nanoclaw_rpc.routes import Routes, Tasks
from nanoclaw_rpc.symbols import Symbols
from nanoclaw_rpc.tls import Tls
from nanoclaw_telemetry import Telemetry, off

if TYPE_CHECKING:
    from nanoclaw_rpc.peers import Peers

log = structlog.get_logger("nanoclaw.rpc")

MESSAGE_BYTES = 8 * 1024 * 1024
METADATA_BYTES = 16 * 1024

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
)


@dataclass(frozen=True)
class ServiceSpec:
    """A service to serve.

    name: the proto's full name. add: the stub's add_…Servicer_to_server. access: which classes of callers may call each
    method, by its bare name; all must be listed.
    """

    name: str
    add: Callable[[Any, Any], None]
    servicer: object
    access: Mapping[str, frozenset[Access]]


class Server:
    """A grpc.aio server over unix sockets and TCP. All its failures to start are NanoclawErrors."""

    def __init__(
        self,
        *,
        listen: Sequence[str],
        services: Sequence[ServiceSpec],
        credentials: Credentials,
        telemetry: Telemetry | None = None,
        drain_seconds: float = 5.0,
        socket_mode: int = 0o600,
        allow_remote: bool = False,
        tls: Tls | None = None,
        connection_seconds: float = 3600.0,
    ) -> None:
        """tls: what TCP listeners use; None: clear text, and only on loopback unless `allow_remote`.

        connection_seconds: how long a TLS connection lives, so that a certificate that is no longer good for a new one
        does not go on for ever; its calls and streams then have a minute to end.
        """
        self._listen = list(listen)
        self._services = list(services)
        self._credentials = credentials
        self._telemetry = telemetry or off()
        self._drain_seconds = drain_seconds
        self._socket_mode = socket_mode
        self._allow_remote = allow_remote
        self._tls = tls
        self._connection_seconds = connection_seconds
        self._health = health.Health(spec.name for spec in services)
        self._listeners: list[UnixListener] = []
        self._server: grpc.aio.Server | None = None
        self._streams = Tasks()
        self.addresses: list[str] = []

    async def start(self) -> None:
        """Checks the access tables, binds, serves.

        Raises UNLISTED_RPC, ADDRESS_IN_USE, NOT_LOOPBACK, INVALID_ADDRESS, and with TLS CERTIFICATE_UNREADABLE and
        CERTIFICATE_OF_ANOTHER.
        """
        self._streams = Tasks()
        options, secure, peers = self._with_tls()
        routes = Routes(self._credentials, self._telemetry, self._streams, peers)
        for spec in self._services:
            routes.add(spec.name, spec.add, spec.servicer, spec.access)
        names = [spec.name for spec in self._services]
        routes.add_health(health_pb2_grpc.add_HealthServicer_to_server, self._health)
        routes.add_reflection(
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
            ReflectionServicer([*names, health.NAME, *Routes.REFLECTION], Symbols()),
        )
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((routes,))
        try:
            for address in self._listen:
                self.addresses.append(self._bind(server, address, secure))
            self.set_serving(True)
        except BaseException:
            await server.start()  # grpc lets ports go only of a server that has run
            await server.stop(None)
            self._release()
            raise
        await server.start()
        self._server = server

    def _with_tls(self) -> tuple[Sequence[tuple[str, int]], grpc.ServerCredentials | None, "Peers | None"]:
        if self._tls is None:
            return OPTIONS, None, None
        from nanoclaw_rpc.handshake import Handshake  # these load a library that is needed nowhere else
        from nanoclaw_rpc.peers import Peers

        age = (
            ("grpc.max_connection_age_ms", int(self._connection_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", 60_000),
        )
        return (*OPTIONS, *age), Handshake(self._tls).server(), Peers()

    def _bind(self, server: grpc.aio.Server, address: str, secure: grpc.ServerCredentials | None) -> str:
        if address.startswith("unix:"):
            listener = UnixListener(Path(address.removeprefix("unix:")).absolute(), self._socket_mode)
            bound = listener.bind(server)
            self._listeners.append(listener)
            return bound
        bound = bind_tcp(server, address, allow_remote=self._allow_remote, credentials=secure)
        if secure is None and not is_loopback(bound.rpartition(":")[0]):
            log.warning("listening beyond this machine, without encryption", address=bound)
        return bound

    def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 answers, for the server and each service."""
        self._health.set(serving)

    async def stop(self) -> None:
        """Takes no new RPCs, ends streams with UNAVAILABLE, gives the others the drain time, cancels the rest."""
        server, self._server = self._server, None
        if server is None:
            return
        self.set_serving(False)
        self._streams.stop()
        await server.stop(self._drain_seconds)
        self._release()

    def _release(self) -> None:
        while self._listeners:
            self._listeners.pop().release()
        self.addresses = []


async def serve_until_signalled(server: Server, *, ready: Callable[[], None] | None = None) -> None:
    """Starts the server, waits for SIGTERM or SIGINT, drains and answers; a second signal is left to the default."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not in the main thread
            loop.add_signal_handler(number, signalled.set)
            caught.append(number)
    try:
        if server._server is None:
            await server.start()
        if ready is not None:
            ready()
        await signalled.wait()
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
        await server.stop()
