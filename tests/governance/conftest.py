"""The kernel for tests: over a database alone, or served to real clients; its invariants hold after every test."""

import dataclasses
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import memory
import pytest

from nanoclaw.broker.v1 import broker_pb2, broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance import approvals, attempts, edits, products, tasks, transitions
from nanoclaw_governance.__main__ import NAME
from nanoclaw_governance.access import ACCESS
from nanoclaw_governance.act import Act
from nanoclaw_governance.approval import Approval
from nanoclaw_governance.draft import Draft
from nanoclaw_governance.edit import Assignment, Checklist, Details
from nanoclaw_governance.override import Pass
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.product import Product, ProductChange
from nanoclaw_governance.servicer import Governance
from nanoclaw_governance.tables import LOG, SLICE
from nanoclaw_governance.task import Task
from nanoclaw_governance.transition import Move
from nanoclaw_rpc import Credentials, Server, ServiceSpec, connect, on_behalf
from nanoclaw_store import Database, Tx
from nanoclaw_store.testing import invariants
from nanoclaw_telemetry import Telemetry, TraceContext, off

WAY = ("TRIAGED", "READY", "DOING", "REVIEW", "APPROVAL", "DONE")


class People:
    """Everybody who turns up in the tests."""

    admin = Caller("operator:founder", Role.ADMIN)
    second_admin = Caller("operator:second", Role.ADMIN)
    approver = Caller("operator:ana", Role.APPROVER)
    viewer = Caller("operator:vic", Role.VIEWER)
    main = Caller("group:main", via="service:gateway")
    developer = Caller("group:developer", via="service:gateway")
    security = Caller("group:security", via="service:gateway")
    stranger = Caller("group:stranger", via="service:gateway")
    dispatcher = Caller("service:dispatcher")
    broker = Caller("service:broker")

    def in_attempt(self, caller: Caller, attempt: str) -> Caller:
        """The group, speaking from that attempt's mailbox."""
        return dataclasses.replace(caller, attempt=attempt)


class TestClock:
    """Stands still, but for a microsecond with each look, until it is moved."""

    __test__ = False

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)


class Kernel:
    """The functions that take a transaction, each run as the unit that the servicer makes of it."""

    def __init__(self, database: Database, policy: Policy) -> None:
        self.database = database
        self.policy = policy
        self._number = itertools.count(1)

    async def do(self, caller: Caller, operate: Callable[[Tx, Act], Any]) -> Any:
        """One unit by the caller."""
        act = Act(caller, self.policy, f"r{next(self._number)}", "0" * 32)
        return await self.database.write(lambda tx: operate(tx, act))

    async def create(self, caller: Caller = People.admin, **fields: Any) -> Task:
        draft = Draft(**{"title": "Fix login", "task_type": "BUG"} | fields)
        return await self.do(caller, lambda tx, act: tasks.create(tx, act, draft, TraceContext.new().traceparent))

    async def move(self, caller: Caller, task: Task | str, to: str, reason: str = "because", **more: Any) -> Task:
        moved, _ = await self.do(caller, lambda tx, act: transitions.move(tx, act, _id(task), Move(to, reason, **more)))
        return moved

    async def walk(self, task: Task, to: str, worker: Caller | None = None) -> Task:
        """The usual way to a state: the operator triages, the assigned group works, the dispatcher hands over."""
        who: dict[str, Caller] = {
            "DOING": People.dispatcher,
            "REVIEW": worker or Caller(f"group:{task.assigned_group}", via="service:gateway"),
            "APPROVAL": People.dispatcher,
        }
        begin = WAY.index(task.state) + 1 if task.state in WAY else 0
        end = WAY.index(to) + 1 if to in WAY else 0
        for state in WAY[begin:end]:
            task = await self.move(who.get(state, People.second_admin), task, state)
        return task

    async def at(self, state: str, **fields: Any) -> Task:
        """A task of group developer that has come as far as that."""
        task = await self.create(**{"assigned_group": "developer"} | fields)
        return await self.walk(task, state)

    async def approve(
        self, caller: Caller, task: Task | str, gate: str = "", **more: Any
    ) -> tuple[Approval, Task, bool]:
        wanted = gate or self.get(task).gate
        options = {"notes": "", "expected_version": None} | more
        return await self.do(caller, lambda tx, act: approvals.approve(tx, act, _id(task), wanted, **options))

    async def assign(self, caller: Caller, task: Task | str, group: str, executor: str = "") -> Task:
        wanted = Assignment(group, executor)
        return (await self.do(caller, lambda tx, act: edits.assign(tx, act, _id(task), None, wanted)))[0]

    async def update(self, caller: Caller, task: Task | str, **fields: Any) -> Task:
        wanted = Details(**fields)
        return (await self.do(caller, lambda tx, act: edits.update(tx, act, _id(task), None, wanted)))[0]

    async def add_evidence(self, caller: Caller, task: Task | str, link: str = "https://ci/1", note: str = "") -> Task:
        return await self.do(caller, lambda tx, act: edits.add_evidence(tx, act, _id(task), None, link, note))

    async def set_checklist(self, caller: Caller, task: Task | str, **fields: Any) -> Task:
        wanted = Checklist(**fields)
        return (await self.do(caller, lambda tx, act: edits.set_checklist(tx, act, _id(task), None, wanted)))[0]

    async def override(self, caller: Caller, task: Task | str, *wanted: str) -> tuple[Task, Task]:
        trace = TraceContext.new().traceparent
        asked = Pass(*(wanted or ("we must ship",)))
        return await self.do(caller, lambda tx, act: edits.override(tx, act, _id(task), None, asked, trace))

    async def bind(self, task: Task | str, group: str, attempt: str, fence: int) -> Task:
        return await self.do(
            People.dispatcher,
            lambda tx, act: attempts.bind(tx, act, _id(task), attempts.Binding(group, attempt, fence)),
        )

    async def product(self, name: str, caller: Caller = People.admin, **fields: Any) -> Product:
        options = {"description": "", "risk": "", "product_id": ""} | fields
        return await self.do(caller, lambda tx, act: products.create(tx, act, name, **options))

    async def change_product(self, caller: Caller, product: str, **fields: Any) -> tuple[Product, bool]:
        wanted = ProductChange(**fields)
        return await self.do(caller, lambda tx, act: products.change(tx, act, product, wanted, ""))

    def get(self, task: Task | str) -> Task:
        """The task as it is."""
        found = self.database.read(lambda tx: tasks.get(tx, _id(task)))
        assert found is not None
        return found

    def log(self, task: Task | str | None = None) -> list[Any]:
        """The rows of the log, of one task or all."""
        rows = self.database.read(lambda tx: LOG.after(tx, 0, 100_000))
        return [row for row in rows if task is None or row["task_id"] == _id(task)]

    def actions(self, task: Task | str) -> list[str]:
        """What the log says was done to the task."""
        return [row["action"] for row in self.log(task)]

    def live(self, task: Task | str) -> list[Approval]:
        """The approvals that count."""
        return self.database.read(lambda tx: approvals.live(tx, _id(task)))


def _id(task: Task | str) -> str:
    return task if isinstance(task, str) else task.id


class Client:
    """A real client of the service; requests are built from keywords, with a request_id of their own."""

    _numbers = itertools.count(1)

    def __init__(self, channel: grpc.aio.Channel, metadata: Any = None) -> None:
        self.stub = governance_pb2_grpc.GovernanceServiceStub(channel)
        self._metadata = metadata

    def request(self, rpc: str, **fields: Any) -> Any:
        """The request message; enum fields take their short names."""
        kind = getattr(pb, f"{rpc}Request")
        for name, prefix in (("to_state", "TASK_STATE_"), ("task_type", "TASK_TYPE_"), ("gate", "GATE_")):
            if isinstance(fields.get(name), str):
                fields[name] = f"{prefix}{fields[name]}"
        if "request_id" in kind.DESCRIPTOR.fields_by_name:
            fields.setdefault("request_id", f"test-{next(self._numbers)}")
        return kind(**fields)

    def __call__(self, rpc: str, **fields: Any) -> Any:
        """Calls it."""
        return getattr(self.stub, rpc)(self.request(rpc, **fields), metadata=self._metadata)


@pytest.fixture
def people() -> People:
    """Everybody who turns up."""
    return People()


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A folder for databases of tests that are not about the disk."""
    folder = memory.folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def databases(fast_path: Path) -> Iterator[list[Path]]:
    """The databases that a test opened; every one of them is verified when it has ended."""
    paths: list[Path] = []
    yield paths
    for path in paths:
        invariants(path)


@pytest.fixture
def clock() -> TestClock:
    """The kernel's clock."""
    return TestClock()


@pytest.fixture
async def open_kernel(
    fast_path: Path, clock: TestClock, databases: list[Path]
) -> AsyncIterator[Callable[..., Awaitable[Kernel]]]:
    """`await open_kernel(strict=True)` opens a kernel of its own."""
    opened: list[Database] = []

    async def start(**policy: bool) -> Kernel:
        path = fast_path / f"kernel{len(opened)}.db"
        opened.append(await Database.open(path, SLICE, clock=clock))
        databases.append(path)
        return Kernel(opened[-1], Policy(**policy))

    yield start
    for database in opened:
        await database.close()


@pytest.fixture
async def kernel(open_kernel: Callable[..., Awaitable[Kernel]]) -> Kernel:
    """A kernel with the default policy."""
    return await open_kernel()


@pytest.fixture
async def strict(open_kernel: Callable[..., Awaitable[Kernel]]) -> Kernel:
    """A kernel in strict mode."""
    return await open_kernel(strict=True)


class Broker(broker_pb2_grpc.BrokerServiceServicer):
    """The far side of a context pack."""

    def __init__(self) -> None:
        self.calls: list[broker_pb2.CallRecord] = []
        self.asked: list[broker_pb2.ListCallsRequest] = []

    async def ListCalls(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return broker_pb2.ListCallsResponse(calls=self.calls)


class Service:
    """The served kernel and its clients."""

    def __init__(self, database: Database, server: Server, spec: ServiceSpec, credentials: Credentials) -> None:
        self.database = database
        self.server = server
        self.spec = spec
        self._credentials = credentials
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, principal: str) -> grpc.aio.Channel:
        """A channel with the principal's token."""
        if principal not in self._channels:
            token = self._credentials.token_file(principal)
            self._channels[principal] = connect(self.server.addresses[0], token_file=token)
        return self._channels[principal]

    def as_(self, principal: str, attempt: str = "") -> Client:
        """A client; a group's requests come through the gateway."""
        kind, _, name = principal.partition(":")
        if kind == "group":
            return Client(self.channel("service:gateway"), on_behalf(name, attempt))
        return Client(self.channel(principal))

    async def close(self) -> None:
        """Stops it."""
        for channel in self._channels.values():
            await channel.close()
        await self.server.stop()
        await self.database.close()


@pytest.fixture
async def open_service(home: Path, credentials: Credentials) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """`await open_service(…)` serves the kernel on a unix socket of the home."""
    for name, role in (("second", Role.ADMIN), ("ana", Role.APPROVER), ("vic", Role.VIEWER)):
        credentials.add_operator(name, role)
    path = home / "store" / "nanoclaw.db"
    running: list[Service] = []
    broker = connect(
        f"unix:{home}/run/broker.sock", token_file=credentials.token_file("service:governance"), timeout=1.0, attempts=1
    )

    async def start(telemetry: Telemetry | None = None, heartbeat_seconds: float = 10.0, **policy: bool) -> Service:
        database = await Database.open(path, SLICE)
        servicer = Governance(
            database,
            Policy(**policy),
            telemetry or off(),
            broker_pb2_grpc.BrokerServiceStub(broker).ListCalls,
            heartbeat_seconds=heartbeat_seconds,
            started_at="2026-11-21T12:00:00.000000Z",
        )
        spec = ServiceSpec(NAME, governance_pb2_grpc.add_GovernanceServiceServicer_to_server, servicer, ACCESS)
        server = Server(
            listen=[f"unix:{home}/run/governance.sock"],
            services=[spec],
            credentials=credentials,
            telemetry=telemetry,
            drain_seconds=1.0,
        )
        await server.start()
        running.append(Service(database, server, spec, credentials))
        return running[-1]

    yield start
    for service in running:
        await service.close()
    await broker.close()
    if path.exists():
        invariants(path)  # here, since the home goes before the databases are looked at


@pytest.fixture
async def service(open_service: Callable[..., Awaitable[Service]]) -> Service:
    """The served kernel with the default policy."""
    return await open_service()


@pytest.fixture
async def broker(home: Path, credentials: Credentials) -> AsyncIterator[Broker]:
    """A broker that answers ListCalls, where the service looks for it."""
    far_side = Broker()
    server = grpc.aio.server()
    broker_pb2_grpc.add_BrokerServiceServicer_to_server(far_side, server)
    server.add_insecure_port(f"unix:{home}/run/broker.sock")
    await server.start()
    yield far_side
    await server.stop(None)


@pytest.fixture
def refused() -> Callable[..., Any]:
    """`with refused("CODE") as caught:` — the block must be refused with that reason."""

    class Expect:
        def __init__(self, reason: str) -> None:
            self._reason = reason
            self.error: NanoclawError

        def __enter__(self) -> "Expect":
            return self

        def __exit__(self, kind: Any, error: Any, _trace: Any) -> bool:
            assert kind is not None, f"not refused; expected {self._reason}"
            if not isinstance(error, NanoclawError):
                return False
            assert error.reason == self._reason, f"refused with {error!r}, expected {self._reason}"
            self.error = error
            return True

    return Expect
