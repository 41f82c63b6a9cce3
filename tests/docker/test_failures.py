"""Thirty tasks in containers while the containers, the networks between them and the engine fail."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aftermath import check
from founder import Founder, Governance
from own_engine import OwnEngine
from stack import SERVICES, Stack

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.dispatcher.v1 import dispatcher_pb2, dispatcher_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES as PORTS
from nanoclaw_rpc import connect
from nanoclaw_rpc.tls import Tls, folder_of

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # the first build asks a registry

TASKS = 30
PATIENCE_SECONDS = 300.0
GATES = (pb.GATE_SECURITY, pb.GATE_PRODUCT)


class World:
    """The founder's view of a stack while it is hurt."""

    def __init__(self, stack: Stack, name: str, channels: dict[str, object]) -> None:
        self.stack = stack
        self.name = name
        self.founder = Founder(prefix=f"{name}-")
        self.governance: Governance = governance_pb2_grpc.GovernanceServiceStub(channels["governance"])  # type: ignore[arg-type]
        self.broker = broker_pb2_grpc.BrokerServiceStub(channels["broker"])  # type: ignore[arg-type]
        self.dispatcher = dispatcher_pb2_grpc.DispatcherServiceStub(channels["dispatcher"])  # type: ignore[arg-type]

    async def load(self) -> None:
        """Thirty tasks, ready, each with one effect that is counted."""
        grant = broker.GrantRequest(
            request_id=f"{self.name}-grant", group="developer", provider="count", access_level=broker.ACCESS_LEVEL_L2
        )
        await self.founder.insist(lambda: self.broker.Grant(grant, timeout=5))
        await asyncio.gather(*(self.founder.load(self.governance, self._task(number)) for number in range(TASKS)))

    def _task(self, number: int) -> pb.CreateTaskRequest:
        task_id = f"{self.name}-{number}"
        return pb.CreateTaskRequest(
            request_id=f"{task_id}-create",
            id=task_id,
            title=f"Task {number}",
            description=f'do: wait 2\ndo: call count add {{"key": "{task_id}"}}\ndo: wait 2\ndo: write note.md: done',
            task_type=pb.TASK_TYPE_OPS,
            assigned_group="developer",
            gate=GATES[number % len(GATES)],
        )

    async def running(self, at_least: int) -> None:
        """Until so many agents run."""
        request = dispatcher_pb2.GetStatusRequest()
        while (await self.founder.insist(lambda: self.dispatcher.GetStatus(request, timeout=5))).running < at_least:
            await asyncio.sleep(0.05)

    async def settle(self) -> None:
        """Until all is as it must be, and check that it is."""
        tasks = await self.founder.settle(self.governance, TASKS)
        check(self.founder, tasks, self.stack.effects, self.stack.data / "groups")
        assert self.stack.verified()["ok"]


@asynccontextmanager
async def world(stack: Stack, name: str) -> AsyncIterator[World]:
    """The founder, over the published ports, with a certificate."""
    tls = Tls(folder_of(stack.secrets, "operator:founder"), "operator:founder")
    channels = {one.name: connect(f"{stack.address}:{one.port}", tls=tls, peer=one.name) for one in PORTS}
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield World(stack, name, channels)
    except TimeoutError:
        raise AssertionError(f"it has not settled; the services say:\n{stack.logs()[-8000:]}") from None
    finally:
        for channel in channels.values():
            await channel.close()


async def in_thread(function: Callable[..., object], *arguments: object) -> object:
    """The engine is asked by blocking calls."""
    return await asyncio.to_thread(function, *arguments)


async def test_any_container_may_be_killed(stack: Stack) -> None:
    """SIGKILL to the container of each service, twice, to the way in, Jaeger, and agents, while thirty tasks run."""
    chance = random.Random(20261121)
    async with world(stack, "kill") as seen:
        await seen.load()
        await seen.running(10)
        killed = [*SERVICES, *SERVICES, "ingress", *(["jaeger"] if stack.jaeger else [])]
        for service in chance.sample(killed, len(killed)):
            container = stack.container(service)
            pid = await in_thread(stack.kill, container)
            assert pid
            for agent in chance.sample(stack.agents(), min(1, len(stack.agents()))):
                await in_thread(stack.kill, agent)
            await in_thread(stack.wait_for_another, container, pid)
        await seen.settle()


async def test_any_service_may_lose_the_network(stack: Stack) -> None:
    """Each is taken off the services' network for longer than a call may take, and put back at another place of it."""
    async with world(stack, "cut") as seen:
        await seen.load()
        await seen.running(10)
        for service in SERVICES:
            with stack.cut_off(service):
                await asyncio.sleep(6)
        await seen.settle()


async def test_the_engine_may_be_killed(stack: Stack, engine: OwnEngine) -> None:
    """SIGKILL to dockerd and its containerd; the next one finds what ran, ends it, and starts the services again."""
    async with world(stack, "engine") as seen:
        await seen.load()
        await seen.running(10)
        for _ in range(2):
            engine.signal(signal.SIGKILL)
            began = time.monotonic()
            await in_thread(engine.start)
            await in_thread(stack.wait_until_healthy)
            assert time.monotonic() - began < 120
        await seen.settle()
