"""A gateway over a real store, with real servers on unix sockets; only the far side's rules are faked."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import memory
import pytest

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceServicer, add_BrokerServiceServicer_to_server
from nanoclaw.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw.governance.v1.governance_pb2_grpc import (
    GovernanceServiceServicer,
    add_GovernanceServiceServicer_to_server,
)
from nanoclaw_core import clock
from nanoclaw_core.errors import Kind, NanoclawError, denied, not_found
from nanoclaw_core.ids import new_ulid
from nanoclaw_ipc_gateway import signature
from nanoclaw_ipc_gateway.gateway import Gateway
from nanoclaw_ipc_gateway.mailbox import Home, Origin
from nanoclaw_ipc_gateway.settings import Settings
from nanoclaw_rpc import Access, Credentials, Server, ServiceSpec, connect, current_caller, times
from nanoclaw_rpc.testing import rpcs
from nanoclaw_store.testing import invariants
from nanoclaw_telemetry import Telemetry, current_trace

WIRE = Path(__file__).parent / "wire"
DEADLINE = 20.0


class Faults:
    """What a far side does besides answering: raises before or after the effect, or waits.

    before, after: called with the RPC's name; what they raise is what the caller gets.
    """

    def __init__(self) -> None:
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.after: Callable[[str], Awaitable[None]] | None = None
        self.calls: list[tuple[str, str, str, str]] = []
        self.traces: list[str] = []
        self.effects: list[str] = []

    async def run(self, rpc: str, request: Any, effect: Callable[[], Any], answers: dict[tuple[str, str], Any]) -> Any:
        """One mutating RPC with idempotency by principal and request_id."""
        caller = current_caller()
        self.calls.append((rpc, caller.principal, caller.attempt, request.request_id))
        self.traces.append(current_trace().trace_id)
        if self.before is not None:
            await self.before(rpc)
        key = (caller.principal, request.request_id)
        body = request.SerializeToString(deterministic=True)
        if key in answers:
            recorded, response = answers[key]
            if recorded != body:
                raise NanoclawError(Kind.INVALID, "REQUEST_ID_REUSED", "the request_id was used for another request")
        else:
            response = effect()
            self.effects.append(rpc)
            answers[key] = (body, response)
        if self.after is not None:
            await self.after(rpc)
        return response


class FakeGovernance(GovernanceServiceServicer):
    """Tasks without rules: any edge goes, except what a test forbids."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.tasks: dict[str, governance.Task] = {}
        self.answers: dict[tuple[str, str], Any] = {}
        self.log: list[governance.Activity] = []
        self.news = asyncio.Condition()
        self.gets: list[str] = []

    async def CreateTask(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            task = governance.Task(
                id=request.id or f"t-{new_ulid()}", title=request.title, description=request.description,
                task_type=request.task_type, priority=request.priority or governance.PRIORITY_P2,
                product=request.product, scope=request.scope or governance.SCOPE_COMPANY,
                assigned_group=request.assigned_group, gate=request.gate or governance.GATE_NONE,
                state=governance.TASK_STATE_INBOX, version=1, metadata_json=request.metadata_json,
                created_at=self.stamp(), updated_at=self.stamp(),
            )  # fmt: skip
            self.tasks[task.id] = task
            return governance.CreateTaskResponse(task=task)

        response = await self.faults.run("CreateTask", request, effect, self.answers)
        await self.tell(response.task.id)
        return response

    async def TransitionTask(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            task = self.found(request.task_id)
            if request.HasField("expected_version") and request.expected_version != task.version:
                raise NanoclawError(
                    Kind.CONFLICT, "STALE_VERSION", f"task {task.id} is at version {task.version}",
                    next_step="read the task again", expected=request.expected_version, actual=task.version,
                )  # fmt: skip
            if request.reason == "forbidden":
                raise denied("NOT_PERMITTED", "this edge is not yours", "ask main")
            task.state, task.version, task.state_reason = request.to_state, task.version + 1, request.reason
            return governance.TransitionTaskResponse(task=task, changed=True)

        response = await self.faults.run("TransitionTask", request, effect, self.answers)
        await self.tell(request.task_id)
        return response

    async def ApproveGate(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            task = self.found(request.task_id)
            task.version += 1
            approval = governance.Approval(id=new_ulid(), approved_by=current_caller().principal, gate=request.gate)
            return governance.ApproveGateResponse(approval=approval, task=task, changed=True)

        return await self.faults.run("ApproveGate", request, effect, self.answers)

    async def AssignTask(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            task = self.found(request.task_id)
            task.assigned_group, task.executor, task.version = (
                request.assigned_group,
                request.executor,
                task.version + 1,
            )
            return governance.AssignTaskResponse(task=task, changed=True)

        response = await self.faults.run("AssignTask", request, effect, self.answers)
        await self.tell(request.task_id)
        return response

    async def GetTask(self, request: Any, context: Any) -> Any:
        self.gets.append(request.task_id)
        return governance.GetTaskResponse(task=self.found(request.task_id))

    async def ListTasks(self, request: Any, context: Any) -> Any:
        return governance.ListTasksResponse(tasks=[t for t in self.tasks.values() if t.state in request.states])

    async def GetStatus(self, request: Any, context: Any) -> Any:
        return governance.GetStatusResponse(head=governance.Cursor(epoch=1, seq=len(self.log)))

    async def WatchTasks(self, request: Any, context: Any) -> AsyncIterator[Any]:
        seq = request.cursor.seq
        while True:
            async with self.news:
                while len(self.log) <= seq:
                    await self.news.wait()
            while seq < len(self.log):
                seq += 1
                fact = self.log[seq - 1]
                yield governance.WatchTasksResponse(
                    cursor=governance.Cursor(epoch=1, seq=seq),
                    activity=fact,
                    task=self.tasks.get(fact.task_id) if request.with_tasks else None,
                )

    async def tell(self, task_id: str) -> None:
        async with self.news:
            self.log.append(governance.Activity(task_id=task_id, action="x"))
            self.news.notify_all()

    def found(self, task_id: str) -> Any:
        if task_id not in self.tasks:
            raise not_found("task", task_id, "task_id", "list them")
        return self.tasks[task_id]

    @staticmethod
    def stamp() -> Any:
        return times.to_timestamp(clock.to_text(clock.utc_now()))


class FakeBroker(BrokerServiceServicer):
    """Every signed call is executed, and counted."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.answers: dict[tuple[str, str], Any] = {}
        self.requests: list[Any] = []
        self.grants: dict[tuple[str, str], Any] = {}
        self.revision = 1
        self.news = asyncio.Condition()
        self.pending: list[list[Any]] = [[]]

    async def ListPendingCalls(self, request: Any, context: Any) -> Any:
        number = int(request.page_token or 0)
        more = str(number + 1) if number + 1 < len(self.pending) else ""
        return broker.ListPendingCallsResponse(calls=self.pending[number], next_page_token=more)

    async def Call(self, request: Any, context: Any) -> Any:
        self.requests.append(request)

        def effect() -> Any:
            if request.attestation.signature != broker.Attestation.SIGNATURE_VALID:
                return broker.CallResponse(
                    call_id=new_ulid(), status=broker.CALL_STATUS_DENIED, code="BAD_SIGNATURE",
                    message="the request is not signed as it must be", next_steps=["sign it"],
                )  # fmt: skip
            return broker.CallResponse(
                call_id=new_ulid(), status=broker.CALL_STATUS_EXECUTED, code="OK", summary="done",
                data_json=request.params_json, facts={"level": "L1"},
            )  # fmt: skip

        return await self.faults.run("Call", request, effect, self.answers)

    async def Grant(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            found = broker.Capability(
                id=new_ulid(), group=request.group, provider=request.provider, access_level=request.access_level,
                allowed_actions=request.allowed_actions, denied_actions=request.denied_actions, active=True,
            )  # fmt: skip
            self.grants[(request.group, request.provider)] = found
            return broker.GrantResponse(capability=found)

        response = await self.faults.run("Grant", request, effect, self.answers)
        await self.tell()
        return response

    async def Revoke(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            found = self.grants.pop((request.group, request.provider), None)
            return broker.RevokeResponse(capability=found, changed=found is not None)

        response = await self.faults.run("Revoke", request, effect, self.answers)
        await self.tell()
        return response

    async def ListCapabilities(self, request: Any, context: Any) -> Any:
        action = broker.ActionStatus(
            name="transform", level=broker.ACCESS_LEVEL_L1, description="changes JSON", status="available",
            least_level=broker.ACCESS_LEVEL_L1, kind=broker.ACTION_KIND_PURE, params_schema_json='{"type":"object"}',
        )  # fmt: skip
        far = broker.ActionStatus(
            name="drop", level=broker.ACCESS_LEVEL_L3, description="drops it", status="requires_higher_level",
            least_level=broker.ACCESS_LEVEL_L2, kind=broker.ACTION_KIND_MUTATING, params_schema_json="{}",
        )  # fmt: skip
        actions = [action, far]
        return broker.ListCapabilitiesResponse(
            capabilities=[broker.GroupCapability(capability=it, actions=actions) for it in self.grants.values()],
            providers_available=["json", "http"],
        )

    async def WatchCapabilities(self, request: Any, context: Any) -> AsyncIterator[Any]:
        seen = 0
        while True:
            async with self.news:
                while self.revision <= seen:
                    await self.news.wait()
                seen = self.revision
            yield broker.WatchCapabilitiesResponse(revision=seen)

    async def tell(self) -> None:
        async with self.news:
            self.revision += 1
            self.news.notify_all()


def spec(name: str, add: Any, servicer: Any) -> ServiceSpec:
    """A far side that lets any credential in: who may do what is not the gateway's to test."""
    bare = ServiceSpec(name, add, servicer, {})
    return replace(bare, access={rpc: frozenset({Access.ANYONE}) for rpc in rpcs(bare)})


@pytest.fixture
def home() -> Iterator[Path]:
    """NANOCLAW_HOME, with a path short enough for sockets."""
    path = memory.folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


class World:
    """A home with its far sides, and gateways that come and go."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.patch = patch
        self.governance = FakeGovernance()
        self.broker = FakeBroker()
        self.gateway: Gateway
        self.settings = Settings(home=home, settle_seconds=0.1, drain_seconds=2.0, sweep_seconds=600.0)
        self.telemetry: Telemetry | None = None
        self.channels: list[Any] = []
        self.servers: list[Server] = []

    def far_side(self) -> list[tuple[str, ServiceSpec]]:
        """Sockets and what listens there."""
        return [
            (
                "governance",
                spec(
                    "nanoclaw.governance.v1.GovernanceService", add_GovernanceServiceServicer_to_server, self.governance
                ),
            ),
            ("broker", spec("nanoclaw.broker.v1.BrokerService", add_BrokerServiceServicer_to_server, self.broker)),
        ]

    @asynccontextmanager
    async def running(self, *, serve: bool = True, **changes: Any) -> AsyncIterator["World"]:
        """A gateway on this home."""
        self.gateway = Gateway(replace(self.settings, **changes), telemetry=self.telemetry)
        await self.gateway.start()
        if serve:
            await self.gateway.server.start()
        try:
            yield self
        finally:
            await self.gateway.stop()

    def stub(self, token: str = "operators/founder") -> Any:
        """A client of the gateway."""
        channel = connect(
            f"unix:{self.home}/run/gateway.sock", token_file=self.home / "secrets" / f"{token}.token", attempts=1
        )
        self.channels.append(channel)
        return GatewayServiceStub(channel)

    def mailbox(self, group: str = "developer") -> "Agent":
        """A standing mailbox, from the agent's side."""
        return Agent(self.home / "ipc" / group)

    any_text = mock.ANY

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query over the database gives."""
        connection = sqlite3.connect(self.home / "store" / "nanoclaw.db")
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def age_files(self) -> None:
        """Lets the sweep think that every file has lain there for a while."""
        self.patch.setattr("nanoclaw_ipc_gateway.intake.FRESH", -60.0)

    @asynccontextmanager
    async def running_without(self, directory: Path) -> AsyncIterator[None]:
        """A gateway that can't have one mailbox's directory until `allow`."""
        opened = Home.open

        def refuse(home: Home, origin: Origin) -> Any:
            if home.path_of(origin) == directory:
                raise PermissionError(13, "no")
            return opened(home, origin)

        self.patch.setattr(Home, "open", refuse)
        async with self.running():
            yield

    def allow(self, directory: Path) -> None:
        """It can from now on."""
        self.patch.undo()

    def check_invariants(self) -> None:
        """state == fold(log), and the chains are whole."""
        check_invariants(self.home)

    def box(self, group: str) -> Any:
        """The gateway's own view of a standing mailbox."""
        return next(it for it in self.gateway.intake.boxes() if it.mailbox.origin.group == group)

    def gateway_look(self, group: str) -> None:
        """Has the gateway look through a mailbox, as after lost events."""
        self.gateway.intake.look(self.box(group))

    async def start_far_side(self) -> None:
        """Governance and the broker serve."""
        credentials = Credentials.open(self.home / "secrets")
        for name, service in self.far_side():
            server = Server(
                listen=[f"unix:{self.home}/run/{name}.sock"],
                services=[service],
                credentials=credentials,
                drain_seconds=0,
            )
            await server.start()
            self.servers.append(server)

    async def stop_far_side(self) -> None:
        """They are gone."""
        while self.servers:
            await self.servers.pop().stop()

    async def restart_far_side(self, meanwhile: Callable[[], Any]) -> None:
        """An outage, and what happens during it."""
        await self.stop_far_side()
        meanwhile()
        await self.start_far_side()

    async def sweep(self) -> None:
        """One round of the sweep."""
        self.gateway.sweep.round()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Waits for a condition, with a deadline."""
        await until(condition, "it")

    def attempt(self, attempt_id: str) -> "Agent":
        """An attempt's mailbox, from the agent's side."""
        return Agent(self.home / "attempts" / attempt_id / "ipc")


class Agent:
    """What an agent does with its mailbox."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0

    def write(self, content: dict[str, Any] | bytes, name: str = "", folder: str = "tasks") -> str:
        """Writes a request as agents do; answers the name to be answered under."""
        self._count += 1
        name = name or f"{1795231475000 + self._count}-{new_ulid()[-6:].lower()}.json"
        raw = content if isinstance(content, bytes) else json.dumps(content, indent=2, ensure_ascii=False).encode()
        temporary = self.path / folder / f"{name}.tmp"
        temporary.write_bytes(raw)
        temporary.rename(self.path / folder / name)
        return name.removesuffix(".json")

    def sign(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request with its signature."""
        text = json.dumps(request, separators=(",", ":"), ensure_ascii=False)
        return {**request, "sig": signature.sign(text, (self.path / ".ipc_secret").read_text())}

    async def answer(self, name: str) -> dict[str, Any]:
        """Waits for a response file."""
        path = self.path / "responses" / f"{name}.json"
        await until(path.exists, f"{path} to appear")
        answer = json.loads(path.read_text())
        assert isinstance(answer, dict)
        return answer

    async def ask(self, content: dict[str, Any] | bytes, name: str = "") -> dict[str, Any]:
        """Writes a request and waits for its answer."""
        written = self.write(content, name)
        request_id = content.get("request_id") if isinstance(content, dict) else None
        return await self.answer(request_id or written)

    def snapshot(self, name: str) -> Any:
        """A snapshot as it stands."""
        return json.loads((self.path / name).read_text())


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> None:
    """Waits for a condition that files fulfil, with a deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.002)


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], World]:
    """A world over a home of the test's own, with far sides of its own."""
    return lambda home: World(home, monkeypatch)


@pytest.fixture
async def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A home with both far sides serving, and no gateway yet."""
    made = World(home, monkeypatch)
    await made.start_far_side()
    yield made
    for channel in made.channels:
        await channel.close()
    await made.stop_far_side()
    check_invariants(home)


def check_invariants(home: Path) -> None:
    """state == fold(log), and the chain is whole."""
    if (home / "store" / "nanoclaw.db").exists():
        invariants(home / "store" / "nanoclaw.db")


@pytest.fixture
async def served(world: World) -> AsyncIterator[World]:
    """The same with a gateway that serves."""
    async with world.running():
        yield world


@pytest.fixture
def wire() -> Path:
    """Files written by an existing agent."""
    return WIRE
