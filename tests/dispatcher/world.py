"""A governed world for the dispatcher's tests: real governance and dispatchers over one database, the far side faked.

The fakes are the engine of agents (fake_runtime) and a gateway that makes mailboxes and nothing else, served over real
gRPC; agents act through `Hands`, as the gateway would for them.
"""

import asyncio
import itertools
import os
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fake_runtime

from nanoclaw.broker.v1 import broker_pb2, broker_pb2_grpc
from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher_pb
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.gateway.v1 import gateway_pb2 as gateway_pb
from nanoclaw.gateway.v1 import gateway_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import access, attempts, dispatches, notes, tables
from nanoclaw_dispatcher.__main__ import NAME
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.ending import RetryPolicy
from nanoclaw_dispatcher.engine import Engine
from nanoclaw_dispatcher.governance import Governance, Mailboxes
from nanoclaw_dispatcher.groups import Group, Groups, Role
from nanoclaw_dispatcher.means import Limits, Means
from nanoclaw_dispatcher.presence import Presence
from nanoclaw_dispatcher.relays import Relays
from nanoclaw_dispatcher.servicer import Dispatcher
from nanoclaw_governance import access as governance_access
from nanoclaw_governance import servicer as governance_servicer
from nanoclaw_governance import tasks
from nanoclaw_governance.__main__ import NAME as GOVERNANCE
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.tables import LOG as governance_log
from nanoclaw_governance.tables import SLICE as GOVERNANCE_SLICE
from nanoclaw_rpc import Access, ServiceSpec, on_behalf
from nanoclaw_store import Database
from nanoclaw_telemetry import Telemetry, TraceContext, off

DEADLINE = 15.0
STARTED = "2026-11-21T12:00:00.000000Z"
LIMITS = Limits(retry=RetryPolicy(3, 0.01, 0.05), lease_seconds=3.0, sweep_seconds=60.0, linger_seconds=5.0)
GROUPS = Groups(
    {
        "main": Group("main", Role.MAIN),
        "developer": Group("developer", Role.EXECUTOR),
        "writer": Group("writer", Role.EXECUTOR),
        "security": Group("security", Role.APPROVER),
    }
)
_GATEWAY_ACCESS = {
    name: frozenset({Access.DISPATCHER})
    for name in gateway_pb.DESCRIPTOR.services_by_name["GatewayService"].methods_by_name
}


_BROKER_ACCESS = {
    name: frozenset({Access.DISPATCHER})
    for name in broker_pb2.DESCRIPTOR.services_by_name["BrokerService"].methods_by_name
}


_RUNTIME = ("create", "start", "inspect", "wait", "stop", "last_lines")


class FakeGateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Makes mailboxes. before_close: awaited while one is closed, as draining it would."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.opened: list[gateway_pb.OpenMailboxRequest] = []
        self.closed: list[str] = []
        self.drain: dict[str, Callable[[], Awaitable[Any]]] = {}
        self.faults: dict[str, deque[NanoclawError]] = defaultdict(deque)

    async def OpenMailbox(self, request: gateway_pb.OpenMailboxRequest, context: Any) -> gateway_pb.OpenMailboxResponse:
        if self.faults["OpenMailbox"]:
            raise self.faults["OpenMailbox"].popleft()
        path = self.home / "attempts" / request.attempt_id / "ipc"
        for name in ("tasks", "messages", "input", "responses"):
            (path / name).mkdir(parents=True, exist_ok=True)
        self.opened.append(request)
        return gateway_pb.OpenMailboxResponse(path=str(path))

    async def CloseMailbox(
        self, request: gateway_pb.CloseMailboxRequest, context: Any
    ) -> gateway_pb.CloseMailboxResponse:
        if self.faults["CloseMailbox"]:
            raise self.faults["CloseMailbox"].popleft()
        if request.attempt_id in self.drain:
            await self.drain.pop(request.attempt_id)()
        self.closed.append(request.attempt_id)
        return gateway_pb.CloseMailboxResponse()


class FakeBroker(broker_pb2_grpc.BrokerServiceServicer):
    """Makes the folders of relays, as a broker would, and takes them away."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.opened: list[broker_pb2.OpenRelayRequest] = []
        self.closed: list[str] = []
        self.faults: dict[str, deque[NanoclawError]] = defaultdict(deque)

    async def OpenRelay(self, request: broker_pb2.OpenRelayRequest, context: Any) -> broker_pb2.OpenRelayResponse:
        if self.faults["OpenRelay"]:
            raise self.faults["OpenRelay"].popleft()
        path = self.home / "attempts" / request.attempt_id / "relay"
        path.mkdir(parents=True, exist_ok=True)
        self.opened.append(request)
        return broker_pb2.OpenRelayResponse(path=str(path))

    async def CloseRelay(self, request: broker_pb2.CloseRelayRequest, context: Any) -> broker_pb2.CloseRelayResponse:
        if self.faults["CloseRelay"]:
            raise self.faults["CloseRelay"].popleft()
        path = self.home / "attempts" / request.attempt_id / "relay"
        if path.exists():
            path.rmdir()
        self.closed.append(request.attempt_id)
        return broker_pb2.CloseRelayResponse(changed=True)


@dataclass
class Hands:
    """What somebody does in governance: an operator, or a group's attempt by the gateway's attestation."""

    stub: governance_pb2_grpc.GovernanceServiceStub
    metadata: Any = None
    _numbers = itertools.count(1)

    def _id(self) -> str:
        return f"test-{next(self._numbers)}"

    async def create(self, task_id: str, **fields: Any) -> pb.Task:
        options = {"title": f"Do {task_id}", "task_type": pb.TASK_TYPE_BUG, "assigned_group": "developer"} | fields
        return (await self.stub.CreateTask(pb.CreateTaskRequest(request_id=self._id(), id=task_id, **options))).task

    async def move(self, task_id: str, to: str, reason: str = "because", **more: Any) -> pb.Task:
        request = pb.TransitionTaskRequest(
            request_id=self._id(), task_id=task_id, to_state=f"TASK_STATE_{to}", reason=reason, **more
        )
        return (await self.stub.TransitionTask(request, metadata=self.metadata)).task

    async def approve(self, task_id: str) -> None:
        gate = (await self.get(task_id)).gate
        await self.stub.ApproveGate(
            pb.ApproveGateRequest(request_id=self._id(), task_id=task_id, gate=gate), metadata=self.metadata
        )

    async def assign(self, task_id: str, group: str) -> None:
        await self.stub.AssignTask(pb.AssignTaskRequest(request_id=self._id(), task_id=task_id, assigned_group=group))

    async def update(self, task_id: str, **fields: Any) -> None:
        await self.stub.UpdateTask(pb.UpdateTaskRequest(request_id=self._id(), task_id=task_id, **fields))

    async def add_evidence(self, task_id: str) -> None:
        await self.stub.AddEvidence(
            pb.AddEvidenceRequest(request_id=self._id(), task_id=task_id, link="https://ci/1"), metadata=self.metadata
        )

    async def product(self, product_id: str, status: str = "") -> None:
        if not status:
            await self.stub.CreateProduct(
                pb.CreateProductRequest(request_id=self._id(), id=product_id, name=product_id)
            )
            return
        await self.stub.UpdateProduct(
            pb.UpdateProductRequest(
                request_id=self._id(), product_id=product_id, status=f"PRODUCT_STATUS_{status}", reason="because"
            )
        )

    async def get(self, task_id: str) -> pb.Task:
        return (await self.stub.GetTask(pb.GetTaskRequest(task_id=task_id))).task

    async def ready(self, task_id: str, **fields: Any) -> pb.Task:
        """A new task, READY."""
        await self.create(task_id, **fields)
        await self.move(task_id, "TRIAGED")
        return await self.move(task_id, "READY")


Fault = Callable[[], Awaitable[Any]]


class Faulty:
    """Something of the far side whose calls meet what they are told to: `before` or `after` one of them, once by name,
    or at every boundary between two steps (`at_each`)."""

    def __init__(self, real: Any, methods: tuple[str, ...] = (), at_each: Fault | None = None) -> None:
        self._real = real
        self._methods = methods
        self._at_each = at_each
        self.before: dict[str, Fault] = {}
        self.after: dict[str, Fault] = {}

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        if name == "WatchTasks" or (self._methods and name not in self._methods):
            return call

        async def invoke(*args: Any, **options: Any) -> Any:
            if (fault := self.before.pop(name, None)) is not None:
                await fault()
            if self._at_each is not None:
                await self._at_each()
            answer = await call(*args, **options)
            if (fault := self.after.pop(name, None)) is not None:
                await fault()
            if self._at_each is not None:
                await self._at_each()
            return answer

        return invoke


class Fate:
    """Counts the boundaries between steps; at the number `strikes_at` it strikes, and nothing goes any further."""

    def __init__(self, strikes_at: int = 0) -> None:
        self.strikes_at = strikes_at
        self.passed = 0
        self.struck = asyncio.Event()

    async def __call__(self) -> None:
        self.passed += 1
        if self.struck.is_set() or self.passed == self.strikes_at:
            self.struck.set()
            await asyncio.Event().wait()


@dataclass
class One:
    """One running dispatcher."""

    engine: Engine
    database: Database
    presence: Presence
    governance: Faulty
    gateway: Faulty
    relay: Faulty
    fate: "Fate | None" = None
    gone: bool = False
    server: Any = None

    async def crash(self) -> None:
        """Dies where it is: no lease is given up, no agent stopped; the kernel lets go of its lock."""
        if not self.gone:
            self.gone = True
            await self.engine.abandon()
            await self.database.close()
            os.close(self.presence._file)

    async def stop(self) -> None:
        """As SIGTERM does."""
        if not self.gone:
            self.gone = True
            await self.engine.stop()
            await self.database.close()
            self.presence.leave()


@dataclass
class World:
    """Everything together."""

    home: Path
    serve: Any
    dial: Any
    fake: "fake_runtime.FakeEngine"
    groups: Groups = GROUPS
    limits: Limits = LIMITS
    telemetry: Telemetry = field(default_factory=off)
    ones: list[One] = field(default_factory=list)

    async def open(self, **policy: Any) -> "World":
        """Starts governance and the gateway."""
        self.governance_database = await Database.open(self.home / "store" / "nanoclaw.db", GOVERNANCE_SLICE)

        async def no_calls(request: Any, **options: Any) -> Any:
            return broker_pb2.ListCallsResponse()

        governance = governance_servicer.Governance(
            self.governance_database,
            Policy(**policy),
            self.telemetry,
            no_calls,
            heartbeat_seconds=10,
            started_at=STARTED,
        )  # fmt: skip
        self.governance_server = await self.serve(
            ServiceSpec(
                GOVERNANCE, governance_pb2_grpc.add_GovernanceServiceServicer_to_server, governance,
                governance_access.ACCESS,
            )
        )  # fmt: skip
        self.gateway = FakeGateway(self.home)
        self.gateway_server = await self.serve(
            ServiceSpec(
                "nanoclaw.gateway.v1.GatewayService", gateway_pb2_grpc.add_GatewayServiceServicer_to_server,
                self.gateway, _GATEWAY_ACCESS,
            )
        )  # fmt: skip
        self.broker = FakeBroker(self.home)
        self.broker_server = await self.serve(
            ServiceSpec(
                "nanoclaw.broker.v1.BrokerService", broker_pb2_grpc.add_BrokerServiceServicer_to_server,
                self.broker, _BROKER_ACCESS,
            )
        )  # fmt: skip
        self.operator = self.hands("operator:founder")
        return self

    def hands(self, principal: str, group: str = "", attempt: str = "") -> Hands:
        """Somebody's."""
        stub = governance_pb2_grpc.GovernanceServiceStub(self.dial(self.governance_server, principal))
        return Hands(stub, on_behalf(group, attempt) if group else None)

    def hands_of(self, run: "fake_runtime.FakeRun") -> Hands:
        """An attempt's."""
        return self.hands("service:gateway", run.spec.group.name, run.spec.attempt_id)

    async def dispatcher(self, *, begin: bool = True, fate: Fate | None = None, **limits: Any) -> One:
        """Another dispatcher over the same database. fate: strikes between two of its steps."""
        database = await Database.open(self.home / "store" / "nanoclaw.db", tables.SLICE)
        governance = Faulty(
            governance_pb2_grpc.GovernanceServiceStub(
                self.dial(self.governance_server, "service:dispatcher", attempts=1)
            ),
            at_each=fate,
        )
        gateway = Faulty(
            gateway_pb2_grpc.GatewayServiceStub(self.dial(self.gateway_server, "service:dispatcher", attempts=1)),
            at_each=fate,
        )
        broker = Faulty(
            broker_pb2_grpc.BrokerServiceStub(self.dial(self.broker_server, "service:dispatcher", attempts=1)),
            at_each=fate,
        )
        runtime = fake_runtime.FakeRuntime(self.fake)
        instance = f"d{len(self.ones)}"
        presence = Presence(self.home / "run", instance)
        means = Means(
            database=Faulty(database, ("write",), fate) if fate else database,  # type: ignore[arg-type]
            governance=Governance(governance),  # type: ignore[arg-type]
            mailboxes=Mailboxes(gateway),  # type: ignore[arg-type]
            relays=Relays(broker),  # type: ignore[arg-type]
            runtimes={"process": Faulty(runtime, _RUNTIME, fate) if fate else runtime},  # type: ignore[dict-item]
            groups=self.groups,
            instance=instance,
            limits=replace(self.limits, **limits),
            telemetry=self.telemetry,
            alive=presence.alive,
        )
        one = One(Engine(means), database, presence, governance, gateway, broker, fate)
        self.ones.append(one)
        if begin:
            await one.engine.start()
        return one

    async def api(self, one: One, principal: str | None = "operator:founder") -> Any:
        """A client of a dispatcher's own RPCs, which it serves from the first on."""
        if one.server is None:
            servicer = Dispatcher(one.engine, heartbeat_seconds=0.2, started_at=STARTED)
            one.server = await self.serve(
                ServiceSpec(NAME, dispatcher_pb2_grpc.add_DispatcherServiceServicer_to_server, servicer, access.ACCESS)
            )
        return dispatcher_pb2_grpc.DispatcherServiceStub(self.dial(one.server, principal))

    async def until(self, true: Callable[[], Any], what: str = "") -> Any:
        """The first true answer of a condition, sync or async."""
        deadline = time.monotonic() + DEADLINE
        while True:
            answer = true()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return answer
            assert time.monotonic() < deadline, f"it never came true: {what or true}\n{self.story()}"
            await asyncio.sleep(0.005)

    async def at(self, task_id: str, state: str) -> pb.Task:
        """Waits until the task is in the state."""

        await self.until(lambda: self.state_of(task_id) == state, f"{task_id} in {state}")
        return await self.operator.get(task_id)

    def state_of(self, task_id: str) -> str:
        """Where the task is."""
        task = self.governance_database.read(lambda tx: tasks.get(tx, task_id))
        return task.state if task is not None else ""

    async def quiet(self) -> None:
        """Waits until no dispatcher has an open dispatch."""
        await self.until(lambda: not any(row["state"] in ("ENQUEUED", "STARTED") for row in self.dispatches()), "quiet")

    def dispatches(self, task_id: str = "") -> list[Any]:
        """All dispatches, oldest first."""
        database = next(one.database for one in reversed(self.ones) if not one.gone)
        rows = database.read(lambda tx: tx.all(dispatches.ALL))
        return [row for row in rows if not task_id or row["task_id"] == task_id]

    def attempts(self, task_id: str = "") -> list[Any]:
        """All attempts, oldest first."""
        database = next(one.database for one in reversed(self.ones) if not one.gone)
        found = []
        for dispatch in self.dispatches(task_id):
            found += database.read(lambda tx, name=dispatch["id"]: tx.all(attempts.OF_DISPATCH, dispatch=name))
        return sorted(found, key=lambda row: row["fence"])

    def log(self) -> list[Any]:
        """The dispatcher's log."""
        database = next(one.database for one in reversed(self.ones) if not one.gone)
        return database.read(lambda tx: tables.LOG.after(tx, 0, 100_000))

    def story(self) -> str:
        """For a failure: what became of everything."""
        try:
            lines = [f"{dict(row)}" for row in [*self.dispatches(), *self.attempts()]]
            lines += [f"{row['task_id']} is {self.state_of(row['task_id'])}" for row in self.dispatches()]
        except StopIteration:
            lines = []
        return "\n".join([*lines, f"runs: {self.fake.runs}"])

    async def close(self) -> None:
        """Ends everything but the agents' engine."""
        for one in self.ones:
            await (one.stop() if one.fate is None else one.crash())
        await self.governance_database.close()


Work = Callable[["fake_runtime.FakeRun", Hands], Awaitable[int]]


def by_group(world: World, work: Mapping[str, Work]) -> Callable[["fake_runtime.FakeRun"], Awaitable[int]]:
    """An agent that does what its group does."""

    async def agent(run: "fake_runtime.FakeRun") -> int:
        return await work[run.spec.group.name](run, world.hands_of(run))

    return agent


async def hand_in(run: "fake_runtime.FakeRun", hands: Hands) -> int:
    """An executor that does it right."""
    await hands.move(run.spec.task_id, "REVIEW", "done")
    return 0


async def approve(run: "fake_runtime.FakeRun", hands: Hands) -> int:
    """A reviewer that likes what it sees."""
    await hands.approve(run.spec.task_id)
    await hands.move(run.spec.task_id, "DONE")
    return 0


def unavailable(reason: str = "AWAY") -> NanoclawError:
    """A failure that passes."""
    return NanoclawError(Kind.UNAVAILABLE, reason, "not now")


def pb_cancel(dispatch_id: str, reason: str) -> dispatcher_pb.CancelDispatchRequest:
    """A request to cancel."""
    return dispatcher_pb.CancelDispatchRequest(request_id=f"c-{dispatch_id}", dispatch_id=dispatch_id, reason=reason)


__all__ = ["AttemptSpec", "RetryPolicy", "TraceContext", "governance_log", "notes", "on_behalf"]
