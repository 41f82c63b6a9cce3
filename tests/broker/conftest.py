"""A broker served in the test's process, behind a stand-in for governance and with a provider that counts."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import grpc.aio
import pytest
from point import Point

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_broker.__main__ import run
from nanoclaw_broker.providers import (
    Action,
    Effect,
    Environment,
    Kind,
    Level,
    Params,
    Provider,
    Result,
    UnknownEnd,
)
from nanoclaw_broker.settings import Settings
from nanoclaw_core.errors import not_found
from nanoclaw_rpc import Access, Server, ServiceSpec, on_behalf
from nanoclaw_store.testing import invariants
from nanoclaw_telemetry import Telemetry

L1, L2, L3 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2, pb.ACCESS_LEVEL_L3
VALID = pb.Attestation(signature=pb.Attestation.SIGNATURE_VALID)


class Governance(governance_pb2_grpc.GovernanceServiceServicer):
    """Tasks as the test sets them."""

    def __init__(self) -> None:
        self.tasks: dict[str, gov.Task] = {}
        self.live: dict[str, list[gov.Gate.ValueType]] = {}
        self.asked: list[str] = []
        self.behind = 0
        self.no_products: set[str] = set()
        self.named: dict[str, str] = {}
        self.on_get: Callable[[], Awaitable[Any] | None] = lambda: None

    def put(self, id: str, **fields: Any) -> gov.Task:
        """A task of the group developer in DOING, unless told otherwise."""
        fields = {"state": gov.TASK_STATE_DOING, "assigned_group": "developer", "scope": gov.SCOPE_COMPANY} | fields
        if fields.get("product_id"):
            fields["scope"] = gov.SCOPE_PRODUCT
        self.tasks[id] = gov.Task(id=id, version=len(self.asked) + 1, **fields)
        return self.tasks[id]

    async def GetTask(self, request: Any, context: Any) -> gov.GetTaskResponse:
        self.asked.append(request.task_id)
        if (wait := self.on_get()) is not None:
            await wait
        if request.task_id not in self.tasks:
            raise not_found("task", request.task_id, "task_id", "list them")
        return gov.GetTaskResponse(task=self.tasks[request.task_id])

    async def GetProduct(self, request: Any, context: Any) -> gov.GetProductResponse:
        if request.product_id in self.no_products:
            raise not_found("product", request.product_id, "product_id", "list them")
        return gov.GetProductResponse(product=gov.Product(id=self.named.get(request.product_id, request.product_id)))

    async def ListApprovals(self, request: Any, context: Any) -> gov.ListApprovalsResponse:
        behind, self.behind = self.behind, 0
        return gov.ListApprovalsResponse(
            approvals=[gov.Approval(gate=gate) for gate in self.live.get(request.task_id, [])],
            task_version=self.tasks[request.task_id].version + behind,
        )


@pytest.fixture
def governance() -> Governance:
    return Governance()


@pytest.fixture
async def governance_server(
    governance: Governance, home: Path, serve: Callable[..., Awaitable[Server]]
) -> AsyncIterator[Server]:
    """The stand-in on governance's own socket."""
    rpcs = gov.DESCRIPTOR.services_by_name["GovernanceService"].methods_by_name
    access = dict.fromkeys(rpcs, frozenset({Access.BROKER}))
    add = governance_pb2_grpc.add_GovernanceServiceServicer_to_server
    spec = ServiceSpec("nanoclaw.governance.v1.GovernanceService", add, governance, access)
    return await serve(spec, listen=[f"unix:{home}/run/governance.sock"])


class Note(Params):
    """What the counting actions take."""

    text: str = "x"


class Counting(Action[Note]):
    """Counts what it did, after waiting for the test where told to."""

    params = Note
    description: ClassVar[str] = "counts"
    timeout_seconds: ClassVar[float] = 5.0

    def __init__(self, name: str, level: Level, kind: Kind, unverified: Level | None = None) -> None:
        self.name, self.level, self.kind = name, level, kind  # type: ignore[misc]
        self.unverified_level = unverified  # type: ignore[misc]
        self.unknown_ends_by = UnknownEnd.VERIFY if level == Level.L2 else UnknownEnd.NONE  # type: ignore[misc]
        self.effects: list[str] = []
        self.entered = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.then: Callable[[Note], Result] = lambda note: Result({"did": note.text}, f"did it {len(self.effects)}")

    def summary(self, params: Note) -> str:
        return f"{self.name} of {len(params.text)} characters"

    async def execute(self, params: Note, effect: Effect) -> Result:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        self.effects.append(params.text)
        return self.then(params)

    async def verify(self, params: Note, effect: Effect) -> Result | None:
        return self.then(params) if params.text in self.effects else None


class Counter:
    """The provider `count`: look L1, compute L1 pure, add L2, drop L2, launch L3, send L3 or L2 unverified."""

    def __init__(self) -> None:
        self.look = Counting("look", Level.L1, Kind.READ)
        self.compute = Counting("compute", Level.L1, Kind.PURE)
        self.add = Counting("add", Level.L2, Kind.MUTATING)
        self.drop = Counting("drop", Level.L2, Kind.MUTATING)
        self.launch = Counting("launch", Level.L3, Kind.MUTATING)
        self.send = Counting("send", Level.L3, Kind.MUTATING, Level.L2)

    @property
    def effects(self) -> int:
        """How much was done, by whichever action."""
        return sum(len(action.effects) for action in self.actions)

    @property
    def actions(self) -> tuple[Counting, ...]:
        """All of them."""
        return (self.look, self.compute, self.add, self.drop, self.launch, self.send)

    def provider(self, _: Environment) -> Provider:
        return Provider("count", "counts", self.actions)

    def locked(self, _: Environment) -> Provider:
        return Provider("locked", "needs a secret", (self.look,), required_secrets=("locked_token",))


@pytest.fixture
def counter() -> Counter:
    return Counter()


@dataclass
class Running:
    """A broker that serves, and how to talk to it."""

    home: Path
    settings: Settings
    dial: Callable[..., grpc.aio.Channel]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def address(self) -> str:
        return self.settings.addresses[0]

    @property
    def database(self) -> Path:
        return self.home / "store" / "nanoclaw.db"

    def stub(self, principal: str = "operator:founder") -> "broker_pb2_grpc.BrokerServiceAsyncStub":
        """A client as a principal with a token."""
        return broker_pb2_grpc.BrokerServiceStub(self.dial(self.address, principal, attempts=1))  # type: ignore[return-value]

    def __post_init__(self) -> None:
        self.gateway = self.stub("service:gateway")
        self.founder = self.stub()

    async def call(
        self,
        provider: str,
        action: str,
        params: Mapping[str, Any] | None = None,
        *,
        group: str = "developer",
        **fields: Any,
    ) -> pb.CallResponse:
        """A call as the gateway passes it on for a group."""
        attempt, timeout = fields.pop("attempt", ""), fields.pop("timeout", 10)
        fields = {"request_id": f"r{next(self.numbers)}", "attestation": VALID} | fields
        request = pb.CallRequest(provider=provider, action=action, params_json=json.dumps(params or {}), **fields)
        return await self.gateway.Call(request, metadata=on_behalf(group, attempt), timeout=timeout)

    async def grant(
        self, provider: str = "count", level: Any = L2, group: str = "developer", **fields: Any
    ) -> pb.Capability:
        """A grant by the founder."""
        request = pb.GrantRequest(
            request_id=f"g{next(self.numbers)}", group=group, provider=provider, access_level=level, **fields
        )
        return (await self.founder.Grant(request)).capability

    async def freeze(self, level: Any = pb.ACCESS_LEVEL_L0, **fields: Any) -> pb.CallFreeze:
        """A freeze by the founder."""
        request = pb.FreezeRequest(
            **{"request_id": f"f{next(self.numbers)}", "max_level": level, "reason": "an incident"} | fields
        )
        return (await self.founder.Freeze(request)).freeze

    async def unfreeze(self, **fields: Any) -> bool:
        """An unfreeze by the founder; whether there was a freeze."""
        request = pb.UnfreezeRequest(request_id=f"u{next(self.numbers)}", **fields)
        return (await self.founder.Unfreeze(request)).changed

    async def revoke(
        self, provider: str = "count", group: str = "developer", product_id: str = ""
    ) -> pb.RevokeResponse:
        """A revoke by the founder."""
        return await self.founder.Revoke(
            pb.RevokeRequest(request_id=f"v{next(self.numbers)}", group=group, provider=provider, product_id=product_id)
        )

    async def record(self, call_id: str) -> pb.CallRecord:
        """A row of the ledger."""
        return (await self.founder.GetCall(pb.GetCallRequest(call_id=call_id))).call


Start = Callable[..., Any]


@pytest.fixture
def start(home: Path, counter: Counter, governance_server: Server, dial: Callable[..., grpc.aio.Channel]) -> Start:
    """`async with start(rate_l1=1000) as broker:` serves one; afterwards the invariants hold."""

    @asynccontextmanager
    async def started(
        telemetry: Telemetry | None = None, also: tuple[EntryPoint, ...] = (), **settings: Any
    ) -> AsyncIterator[Running]:
        chosen = replace(Settings(home=home, drain_seconds=1.0), **settings)
        up = asyncio.Event()
        points = [Point("count", counter.provider), Point("locked", counter.locked), *also]
        serving = asyncio.create_task(run(chosen, telemetry=telemetry, ready=up.set, found=points))
        waiting = asyncio.create_task(up.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done():
            serving.result()
        try:
            yield Running(home, chosen, dial)
        finally:
            serving.cancel()
            await asyncio.wait({serving})
            if (home / "store" / "nanoclaw.db").exists():
                invariants(home / "store" / "nanoclaw.db")

    return started


@pytest.fixture
async def broker(start: Start) -> AsyncIterator[Running]:
    """A broker with the default limits."""
    async with start() as running:
        yield running
