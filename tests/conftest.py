"""What the tests of all services share: a short home with secrets, servers and channels that close, a collector."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import memory
import pytest
import structlog
from hypothesis import HealthCheck, settings
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from nanoclaw_broker.secrets import open_key
from nanoclaw_cli.collector import Span, spans_of
from nanoclaw_rpc import Credentials, Server, ServiceSpec, connect

settings.register_profile(  # of `make fuzz`
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")),
    derandomize=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
# Of all other runs. How long an example takes says how busy the machine is. And the same examples each time, so that it
# was the change if one fails: `--hypothesis-profile=fuzz` tries others, of any test.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("same")

# Lines of services in a test's process, shown where it fails. Left alone, structlog paints them and draws tracebacks
# with all that every frame holds, which takes longer than many a test.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A logger keeps the level that held when it was first used, so no test leaves its own to the next."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets."""
    path = memory.folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def first_secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What first starts make. Each file of it is written through to the disk, so homes get copies."""
    folder = tmp_path_factory.mktemp("first") / "secrets"
    Credentials.open(folder)
    open_key(folder / "broker.key")
    return folder


@pytest.fixture
def home(socket_dir: Path, first_secrets: Path) -> Path:
    """A NANOCLAW_HOME with its folders and first credentials; short enough for run/*.sock."""
    for name in ("store", "run", "ipc", "attempts", "groups", "logs"):
        (socket_dir / name).mkdir()
    shutil.copytree(first_secrets, socket_dir / "secrets")
    return socket_dir


@pytest.fixture
def credentials(home: Path) -> Credentials:
    """The credentials of the home: operator:founder (admin) and the services."""
    return Credentials.open(home / "secrets")


@pytest.fixture
async def serve(home: Path, credentials: Credentials) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """`await serve(spec, …)` starts a server on a unix socket of the home; it is stopped after the test."""
    servers: list[Server] = []

    async def start(*specs: ServiceSpec, **options: Any) -> Server:
        options = {"listen": [f"unix:{home}/run/test{len(servers)}.sock"], "drain_seconds": 1.0} | options
        server = Server(services=specs, credentials=credentials, **options)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in reversed(servers):
        await server.stop()


@pytest.fixture
async def dial(home: Path, credentials: Credentials) -> AsyncIterator[Callable[..., grpc.aio.Channel]]:
    """`dial(server_or_address, "operator:founder")` opens a channel as that principal; None brings no credential."""
    channels: list[grpc.aio.Channel] = []

    def open_channel(to: Server | str, principal: str | None = "operator:founder", **options: Any) -> grpc.aio.Channel:
        address = to.addresses[0] if isinstance(to, Server) else to
        token_file = credentials.token_file(principal) if principal else None
        channels.append(connect(address, token_file=token_file, **options))
        return channels[-1]

    yield open_channel
    for channel in channels:
        await channel.close()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector in the test's process. `environ` turns a service's telemetry on towards it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spans: list[Span] = []
        self.headers: dict[str, str] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self.environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:
        """What an exporter calls."""
        with self._changed:
            self._spans += spans_of(request)
            self.headers = {key: str(value) for key, value in context.invocation_metadata()}
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        """All that came so far."""
        with self._changed:
            return list(self._spans)

    def wait(self, predicate: Callable[[list[Span]], Any], timeout: float = 10.0) -> list[Span]:
        """Blocks until the predicate holds over all spans, and answers them. For sync tests."""
        with self._changed:
            held = self._changed.wait_for(lambda: predicate(self._spans), timeout)
            assert held, f"not within {timeout} s; got {sorted(f'{s.service} {s.name}' for s in self._spans)}"
            return list(self._spans)

    async def wait_for(self, predicate: Callable[[list[Span]], Any], timeout: float = 10.0) -> list[Span]:
        """`wait` beside a running event loop."""
        return await asyncio.to_thread(self.wait, predicate, timeout)

    def close(self) -> None:
        """Stops listening."""
        self._server.stop(None).wait()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """An OTLP collector: `setup("x", collector.environ)`, then `await collector.wait_for(lambda spans: …)`."""
    collector = Collector()
    yield collector
    collector.close()
