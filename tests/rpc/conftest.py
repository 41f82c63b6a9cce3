"""A governance service that does what its requests' task_id says; for tests of the spine under it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import Access, Credentials, Server, ServiceSpec, Tls, current_caller, current_trace
from nanoclaw_rpc.authority import Authority
from nanoclaw_rpc.status import from_rpc_error
from nanoclaw_rpc.tls import folder_of
from nanoclaw_telemetry import setup

NAME = "nanoclaw.governance.v1.GovernanceService"


class Puppet(stubs.GovernanceServiceServicer):
    """GetTask calls `on_get`, CreateTask `on_create`, WatchTasks sends one row and waits."""

    def __init__(self) -> None:
        self.on_get: Callable[[Any], Any] = lambda request: pb.GetTaskResponse(
            task=pb.Task(
                id=request.task_id,
                title=current_caller().principal,
                description=f"{current_caller().via} {current_caller().attempt}".strip(),
                traceparent=current_trace().traceparent,
            )
        )
        self.on_create: Callable[[Any], Any] = lambda request: pb.CreateTaskResponse(task=pb.Task(id=request.id))
        self.seen: list[Any] = []
        self.contexts: list[Any] = []
        self.entered = asyncio.Event()
        self.watch_ended: list[BaseException | None] = []
        self.watch_error: NanoclawError | None = None

    async def GetTask(self, request: Any, context: Any) -> Any:
        self.seen.append(request)
        self.contexts.append(context)
        self.entered.set()
        result = self.on_get(request)
        return await result if asyncio.iscoroutine(result) else result

    async def CreateTask(self, request: Any, context: Any) -> Any:
        self.seen.append(request)
        self.contexts.append(context)
        self.entered.set()
        result = self.on_create(request)
        return await result if asyncio.iscoroutine(result) else result

    async def WatchTasks(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.entered.set()
        ended: BaseException | None = None
        try:
            yield pb.WatchTasksResponse()
            if self.watch_error is not None:
                raise self.watch_error
            await asyncio.Event().wait()
        except BaseException as error:
            ended = error
            raise
        finally:
            self.watch_ended.append(ended)


@pytest.fixture
def puppet() -> Puppet:
    return Puppet()


@pytest.fixture
def spec(puppet: Puppet) -> ServiceSpec:
    """All RPCs open to admins; GetTask to groups and services, CreateTask to main too."""
    rpcs = pb.DESCRIPTOR.services_by_name["GovernanceService"].methods_by_name
    access = dict.fromkeys(rpcs, frozenset({Access.ADMIN}))
    access["GetTask"] = frozenset({Access.ADMIN, Access.GROUP, Access.SERVICE})
    access["CreateTask"] = frozenset({Access.ADMIN, Access.MAIN})
    return ServiceSpec(NAME, stubs.add_GovernanceServiceServicer_to_server, puppet, access)


@pytest.fixture
async def raw() -> AsyncIterator[Callable[..., Any]]:
    """`await raw(server, metadata, rpc="GetTask", body=b"")`: a call without any manners; answers (code, error)."""
    channels: list[grpc.aio.Channel] = []

    async def call(
        server: Server, metadata: Any = (), *, rpc: str = "GetTask", body: bytes = b"", service: str = NAME
    ) -> tuple[grpc.StatusCode, NanoclawError | None]:
        channels.append(grpc.aio.insecure_channel(server.addresses[0]))
        try:
            await channels[-1].unary_unary(f"/{service}/{rpc}")(body, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as failed:
            return failed.code(), from_rpc_error(failed)
        return grpc.StatusCode.OK, None

    yield call
    for channel in channels:
        await channel.close()


@pytest.fixture
def bearer(credentials: Credentials) -> Callable[[str], tuple[tuple[str, str], ...]]:
    """The metadata that a principal's token makes."""
    return lambda who: (("authorization", f"Bearer {credentials.token_file(who).read_text().strip()}"),)


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Everything logged so far, from DEBUG on; ask for this fixture before a server starts."""
    setup("test", {"NANOCLAW_LOG_LEVEL": "DEBUG"})
    lines: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        lines.extend(json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{"))
        return lines

    return read


@pytest.fixture
def authority(home: Path) -> Authority:
    """The home's certificate authority, and certificates of all services and of operator:founder."""
    authority = Authority(home / "secrets")
    authority.create(days=30, authority_days=60, hosts={})
    authority.issue("operator:founder", days=30)
    return authority


@pytest.fixture
def tls(authority: Authority, home: Path) -> Callable[[str], Tls]:
    """`tls("service:broker")`: that principal's certificate of the home's authority."""
    return lambda principal: Tls(folder_of(home / "secrets", principal), principal)
