"""Two hundred tasks while everything is killed again and again: nothing is lost, nothing happens twice."""

import asyncio
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

import pytest
from chaos import Chaos

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import connect
from nanoclaw_store.testing import invariants

SEED = int(os.environ.get("SWEEP_SEED", "20261121"))
TASKS = int(os.environ.get("SWEEP_TASKS", "200"))
MOMENTS = int(os.environ.get("SWEEP_MOMENTS", "60"))
PATIENCE_SECONDS = 540.0
SUPPORT = Path(__file__).parents[1] / "support"
A = TypeVar("A")
Governance: TypeAlias = "governance_pb2_grpc.GovernanceServiceAsyncStub"

GATES = (pb.GATE_SECURITY, pb.GATE_PRODUCT, pb.GATE_REVOPS, pb.GATE_CLAIMS)


@dataclass
class Founder:
    """The person outside: repeats each request until it is answered, and remembers what it was told."""

    home: Path
    told: dict[str, tuple[int, str]] = field(default_factory=dict)

    async def insist(self, call: Callable[[], Awaitable[A]]) -> A:
        """Sends the same request until somebody answers it."""
        while True:
            try:
                return await call()
            except NanoclawError as error:
                if error.kind not in (Kind.UNAVAILABLE, Kind.DEADLINE):
                    raise
                await asyncio.sleep(0.05)

    def acknowledged(self, task: pb.Task) -> None:
        """Keeps the newest version that was confirmed."""
        self.told[task.id] = (task.version, pb.TaskState.Name(task.state))

    async def load(self, governance: Governance, number: int, chance: random.Random) -> None:
        """Creates a task and makes it ready."""
        task_id = f"sweep-{number}"
        lines = [f'do: call count add {{"key": "{task_id}"}}', "do: write note.md: done"]
        if number % 10 == 3:
            lines.append("review: send back once: say more")
        if number % 10 == 7:
            lines.append("do: block once: which one?")
        request = pb.CreateTaskRequest(
            request_id=f"{task_id}-create",
            id=task_id,
            title=f"Sweep {number}",
            description="\n".join(lines),
            task_type=pb.TASK_TYPE_OPS,
            priority=chance.choice((pb.PRIORITY_P0, pb.PRIORITY_P1, pb.PRIORITY_P2)),
            assigned_group="developer",
            gate=chance.choice(GATES),
        )
        self.acknowledged((await self.insist(lambda: governance.CreateTask(request, timeout=5))).task)
        for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
            move = pb.TransitionTaskRequest(request_id=f"{task_id}-{state}", task_id=task_id, to_state=state)
            self.acknowledged((await self.insist(lambda move=move: governance.TransitionTask(move, timeout=5))).task)  # type: ignore[misc]

    async def settle(self, governance: Governance) -> dict[str, pb.Task]:
        """Unblocks what agents blocked, until every task is DONE or was blocked by the dispatcher."""
        while True:
            tasks = await self.tasks(governance)
            open_tasks = 0
            for task in tasks.values():
                if task.state == pb.TASK_STATE_BLOCKED and task.blocked_by != "service:dispatcher":
                    move = pb.TransitionTaskRequest(
                        request_id=f"{task.id}-unblock-{task.version}",
                        task_id=task.id,
                        to_state=task.blocked_from if task.blocked_from == pb.TASK_STATE_DOING else pb.TASK_STATE_READY,
                        reason="go on",
                        expected_version=task.version,
                    )
                    try:
                        await self.insist(lambda move=move: governance.TransitionTask(move, timeout=5))  # type: ignore[misc]
                    except NanoclawError as error:
                        if error.reason != "STALE_VERSION":
                            raise
                    open_tasks += 1
                elif task.state not in (pb.TASK_STATE_DONE, pb.TASK_STATE_BLOCKED):
                    open_tasks += 1
            if not open_tasks and len(tasks) == TASKS:
                return tasks
            await asyncio.sleep(0.5)

    async def tasks(self, governance: Governance) -> dict[str, pb.Task]:
        """Every task, by its id."""
        found: dict[str, pb.Task] = {}
        token = ""
        while True:
            request = pb.ListTasksRequest(page_size=500, page_token=token)
            answer = await self.insist(lambda request=request: governance.ListTasks(request, timeout=5))  # type: ignore[misc]
            found |= {task.id: task for task in answer.tasks}
            token = answer.next_page_token
            if not token:
                return found


@pytest.fixture
def sweep_environ(environ: dict[str, str], short_home: Path) -> dict[str, str]:
    """Quick retries, more slots, the counting provider installed, and agents under the overlap lock."""
    agent = short_home.parent / f"{short_home.name}-agent"
    agent.mkdir()
    (agent / "sweep_agent.py").write_text((SUPPORT / "sweep_agent.py").read_text())
    groups = short_home / "config" / "groups.toml"
    groups.parent.mkdir()
    mount = f'mounts = [{{ source = "{agent}", target = "/opt/sweep", writable = false }}]'
    command = f'command = ["{sys.executable}", "/opt/sweep/sweep_agent.py"]'
    groups.write_text(
        "".join(
            f'[groups.{name}]\nrole = "{role}"\n{command}\n{mount}\nwip_limit = 100\n'
            for name, role in (("main", "main"), ("developer", "executor"), ("security", "approver"))
        )
    )
    path = [str(SUPPORT / "plugins"), environ.get("PYTHONPATH", "")]
    return {
        **environ,
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "NANOCLAW_LOG_LEVEL": "WARNING",
        "NANOCLAW_GOVERNANCE_RATE_FACTOR": "1000",
        "NANOCLAW_BROKER_RATE_L2": "100000",
        "NANOCLAW_BROKER_SOFT_L2": "100000",
        "NANOCLAW_BROKER_HARD_L2": "100000",
        "NANOCLAW_DISPATCHER_MAX_CONTAINERS": "6",
        "NANOCLAW_DISPATCHER_MAX_ATTEMPTS": "8",
        "NANOCLAW_DISPATCHER_BACKOFF_SECONDS": "0.2",
        "NANOCLAW_DISPATCHER_SWEEP_SECONDS": "2",
    }


@pytest.mark.crash
async def test_whatever_is_killed_every_task_ends_and_nothing_happens_twice(
    short_home: Path, sweep_environ: dict[str, str]
) -> None:
    """SIGKILL at 60 moments during 200 tasks: all end, no effect twice, no confirmed write lost, the log is whole."""
    chance = random.Random(SEED)
    founder = Founder(short_home)
    supervisor = Supervisor(short_home, [sys.executable], sweep_environ, backoff=(0.05, 0.1, 0.2))
    async with supervisor.running():
        token = short_home / "secrets" / "operators" / "founder.token"
        async with (
            connect(SERVICES[0].target(short_home), token_file=token) as channel,
            connect(SERVICES[1].target(short_home), token_file=token) as to_broker,
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            governance = governance_pb2_grpc.GovernanceServiceStub(channel)
            grant = broker.GrantRequest(
                request_id="grant", group="developer", provider="count", access_level=broker.ACCESS_LEVEL_L2
            )
            await founder.insist(lambda: broker_pb2_grpc.BrokerServiceStub(to_broker).Grant(grant, timeout=5))
            chaos = Chaos(short_home, random.Random(SEED + 1))
            slots = asyncio.Semaphore(8)

            async def load(number: int) -> None:
                async with slots:
                    await founder.load(governance, number, chance)

            raging = asyncio.create_task(chaos.rage(MOMENTS))
            await asyncio.gather(*(load(number) for number in range(TASKS)))
            await raging
            tasks = await founder.settle(governance)
    assert len(chaos.kills) >= MOMENTS
    assert set(chaos.kills) == {"agent", *(service.name for service in SERVICES)}
    check(short_home, founder, tasks)


def check(home: Path, founder: Founder, tasks: dict[str, pb.Task]) -> None:
    """What must be true in the end."""
    for task in tasks.values():
        if task.state != pb.TASK_STATE_DONE:
            assert task.state == pb.TASK_STATE_BLOCKED, task.id
            assert task.blocked_by == "service:dispatcher", task.id
            assert task.state_reason, task.id
    done = [task.id for task in tasks.values() if task.state == pb.TASK_STATE_DONE]
    reasons = Counter(task.state_reason for task in tasks.values() if task.state != pb.TASK_STATE_DONE)
    assert len(done) >= TASKS * 0.9, f"too many tasks ended in BLOCKED: {reasons}"
    for task_id, (version, _state) in founder.told.items():
        assert tasks[task_id].version >= version, f"an acknowledged write of {task_id} is gone"
    effects = Counter((home / "effects.log").read_text().split())
    assert not [key for key, count in effects.items() if count > 1]
    overlaps = [path for path in (home / "groups").glob("*/locks/overlaps") if path.read_text()]
    assert not overlaps, overlaps[0].read_text()
    with sqlite3.connect(home / "store" / "nanoclaw.db") as database:
        executed = {
            row[0] for row in database.execute("SELECT task_id FROM ext_calls WHERE state = 'EXECUTED'").fetchall()
        }
        unknown = {
            row[0] for row in database.execute("SELECT task_id FROM ext_calls WHERE state = 'UNKNOWN'").fetchall()
        }
    assert executed <= effects.keys(), "an effect was confirmed that did not happen"
    assert effects.keys() <= executed | unknown, "an effect happened that the ledger does not know"
    invariants(home / "store" / "nanoclaw.db")
