"""A governance service that does what its requests' task_id says; for tests of the spine under it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import Access, ServiceSpec, current_caller, current_trace

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
        self.entered = asyncio.Event()
        self.watch_ended: list[BaseException | None] = []
        self.watch_error: NanoclawError | None = None

    async def GetTask(self, request: Any, context: Any) -> Any:
        self.seen.append(request)
        self.entered.set()
        result = self.on_get(request)
        return await result if asyncio.iscoroutine(result) else result

    async def CreateTask(self, request: Any, context: Any) -> Any:
        self.seen.append(request)
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
def boom() -> NanoclawError:
    return NanoclawError(Kind.PRECONDITION, "BOOM", "not now")
