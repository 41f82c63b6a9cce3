"""The agent kit against the real gateway, governance and broker; the test plays the dispatcher."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import memory
import pytest
from google.protobuf.json_format import MessageToDict
from pasted import between, paste

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.gateway.v1 import gateway_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_agent.client import Client
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.prompt import EXECUTOR, REVIEWER, Assignment
from nanoclaw_agent.session import Opening
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import is_serving
from nanoclaw_rpc import connect

TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    """A home with three services as processes."""
    home = memory.folder()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}
    wanted = [service for service in SERVICES if service.name != "dispatcher"]
    (home / "run").mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", service.module],
            env=environ | {"NANOCLAW_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for service in wanted
    ]
    try:
        asyncio.run(_until_serving(home, wanted))
        yield home
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
        shutil.rmtree(home, ignore_errors=True)


async def _until_serving(home: Path, services: Any) -> None:
    async with asyncio.timeout(30):
        while not all([await is_serving(service.target(home)) for service in services]):
            await asyncio.sleep(0.05)


class Dispatcher:
    """What the dispatcher does around an attempt, step by step, by the same RPCs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._fence = 0

    def stub(self, name: str, make: Any, principal: str = "services/dispatcher") -> Any:
        service = next(service for service in SERVICES if service.name == name)
        return make(connect(service.target(self.home), token_file=self.home / "secrets" / f"{principal}.token"))

    def governance(self, principal: str = "services/dispatcher") -> Any:
        return self.stub("governance", governance_pb2_grpc.GovernanceServiceStub, principal)

    async def create(self, task_id: str, description: str) -> None:
        """A task, READY."""
        founder = self.governance("operators/founder")
        await founder.CreateTask(
            pb.CreateTaskRequest(
                request_id=task_id,
                id=task_id,
                title="Count spend",
                task_type=pb.TASK_TYPE_FEATURE,
                gate=pb.GATE_SECURITY,
                assigned_group="developer",
                description=description,
            )
        )
        for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
            await self.move(task_id, state, founder)

    async def move(self, task_id: str, state: Any, stub: Any = None, reason: str = "") -> None:
        request = pb.TransitionTaskRequest(
            request_id=f"{task_id}-{state}-{self._fence}", task_id=task_id, to_state=state, reason=reason
        )
        await (stub or self.governance()).TransitionTask(request)

    async def task(self, task_id: str) -> pb.Task:
        return (await self.governance().GetTask(pb.GetTaskRequest(task_id=task_id))).task

    async def open(self, task_id: str, group: str) -> Environment:
        """Binds a new attempt and opens its mailbox."""
        self._fence += 1
        attempt = f"nc-{task_id}-{self._fence}"
        stub = self.stub("gateway", gateway_pb2_grpc.GatewayServiceStub)
        opened = await stub.OpenMailbox(
            gateway.OpenMailboxRequest(
                request_id=attempt,
                attempt_id=attempt,
                group=group,
                task_id=task_id,
                fence=self._fence,
                traceparent=TRACE,
            )
        )
        await self.governance().BindAttempt(
            pb.BindAttemptRequest(
                request_id=attempt, task_id=task_id, group=group, attempt_id=attempt, fence=self._fence
            )
        )
        folder = self.home / "groups" / group
        folder.mkdir(parents=True, exist_ok=True)
        return Environment(opened.path, str(folder), group, task_id, attempt, TRACE)

    async def run(self, environment: Environment, role: str, reason: str = "") -> tuple[int, str]:
        """Runs the reference agent; answers its exit code and errors."""
        task = await self.task(environment.task_id)
        fields = MessageToDict(task, preserving_proto_field_name=True)
        context: dict[str, Any] = {}
        if role == REVIEWER:
            request = pb.GetContextPackRequest(task_id=task.id)
            context = MessageToDict(await self.governance().GetContextPack(request), preserving_proto_field_name=True)
        prompt = Assignment(fields, role, reason, context, "Security").render()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nanoclaw_agent.reference"),
            env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | environment.variables(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate(Opening(prompt).line().encode())
        return process.returncode or 0, errors.decode()


@pytest.fixture
def dispatcher(running: Path) -> Dispatcher:
    return Dispatcher(running)


async def grant(dispatcher: Dispatcher) -> None:
    stub = dispatcher.stub("broker", broker_pb2_grpc.BrokerServiceStub, "operators/founder")
    request = broker.GrantRequest(
        request_id="grant", group="developer", provider="json", access_level=broker.ACCESS_LEVEL_L1
    )
    await stub.Grant(request)


async def test_two_reference_agents_take_a_task_from_doing_to_done(dispatcher: Dispatcher) -> None:
    """A signed call on the way, sent back once, reworked, approved by the other group."""
    await grant(dispatcher)
    await dispatcher.create(
        "a1",
        'do: call json transform {"expression": "sum(x)", "data": {"x": [1, 2]}} -> sum.json\n'
        "do: message summing up\nreview: send back once: say it in words",
    )
    await dispatcher.move("a1", pb.TASK_STATE_DOING)
    assert await dispatcher.run(await dispatcher.open("a1", "developer"), EXECUTOR) == (0, "")
    assert (await dispatcher.task("a1")).state == pb.TASK_STATE_REVIEW
    assert (dispatcher.home / "groups" / "developer" / "sum.json").read_text().strip() == "3"

    await dispatcher.move("a1", pb.TASK_STATE_APPROVAL)
    assert await dispatcher.run(await dispatcher.open("a1", "security"), REVIEWER) == (0, "")
    task = await dispatcher.task("a1")
    assert (task.state, task.state_reason) == (pb.TASK_STATE_REVIEW, "say it in words")

    await dispatcher.move("a1", pb.TASK_STATE_DOING, reason=task.state_reason)
    environment = await dispatcher.open("a1", "developer")
    assert await dispatcher.run(environment, EXECUTOR, task.state_reason) == (0, "")
    assert "addressed: say it in words" in (await dispatcher.task("a1")).review_summary
    await dispatcher.move("a1", pb.TASK_STATE_APPROVAL)
    assert await dispatcher.run(await dispatcher.open("a1", "security"), REVIEWER) == (0, "")
    assert (await dispatcher.task("a1")).state == pb.TASK_STATE_DONE

    stub = dispatcher.stub("broker", broker_pb2_grpc.BrokerServiceStub)
    calls = (await stub.ListCalls(broker.ListCallsRequest(task_id="a1"))).calls
    assert [(call.state, call.attempt_id) for call in calls] == [(broker.CALL_STATE_EXECUTED, "nc-a1-1")]


async def test_the_client_reads_what_the_gateway_writes(dispatcher: Dispatcher) -> None:
    """Snapshots, answers, refusals with their next steps, and a fenced attempt."""
    await grant(dispatcher)
    await dispatcher.create("b1", "")
    await dispatcher.move("b1", pb.TASK_STATE_DOING)
    first = Client(await dispatcher.open("b1", "developer"))
    assert (first.task("b1") or {})["title"] == "Count spend"
    assert first.capabilities()["providers_available"]
    refused = await asyncio.to_thread(first.transition, "b1", "DONE")
    assert (refused.status, refused.code) == ("denied", "NO_SUCH_EDGE")
    assert refused.next_steps
    denied = await asyncio.to_thread(first.call, "http", "get", {"url": "https://example.test"}, task_id="b1")
    assert (denied.status, denied.ok) == ("denied", False)
    unserved = await asyncio.to_thread(first.request, "runtime_query", question="remaining_budget")
    assert unserved.code == "NOT_SUPPORTED"
    assert first.message("hello") is None

    second = Client(await dispatcher.open("b1", "developer"))
    fenced = await asyncio.to_thread(first.transition, "b1", "REVIEW", "done")
    assert (fenced.status, fenced.code) == ("denied", "STALE_ATTEMPT")
    moved = await asyncio.to_thread(second.transition, "b1", "REVIEW", "done")
    assert moved.ok


async def test_the_shell_session_of_the_guide_signs_a_request(dispatcher: Dispatcher) -> None:
    """As a newcomer would paste it, in a group's standing mailbox; the ledger has the call."""
    await grant(dispatcher)
    guide = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    (printed,) = await paste(between(guide, "signing"), {"var/ipc": f"{dispatcher.home}/ipc"})
    assert '"code":"OK"' in printed
    stub = dispatcher.stub("broker", broker_pb2_grpc.BrokerServiceStub)
    calls = (await stub.ListCalls(broker.ListCallsRequest(group="developer"))).calls
    assert [call.state for call in calls if call.request_id.startswith("shell-")] == [broker.CALL_STATE_EXECUTED]
