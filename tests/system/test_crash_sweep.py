"""Two hundred tasks while everything is killed again and again: nothing is lost, nothing happens twice."""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest
from aftermath import check, check_ledger
from chaos import Chaos
from founder import Founder

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor
from nanoclaw_rpc import connect

SEED = int(os.environ.get("SWEEP_SEED", "20261121"))
TASKS = int(os.environ.get("SWEEP_TASKS", "200"))
MOMENTS = int(os.environ.get("SWEEP_MOMENTS", "60"))
PATIENCE_SECONDS = 540.0
SUPPORT = Path(__file__).parents[1] / "support"

GATES = (pb.GATE_SECURITY, pb.GATE_PRODUCT, pb.GATE_REVOPS, pb.GATE_CLAIMS)


def task(number: int, chance: random.Random) -> pb.CreateTaskRequest:
    """One of the two hundred: an effect, a file, and every tenth one sent back, or blocked by its agent."""
    task_id = f"sweep-{number}"
    lines = [f'do: call count add {{"key": "{task_id}"}}', "do: write note.md: done"]
    if number % 10 == 3:
        lines.append("review: send back once: say more")
    if number % 10 == 7:
        lines.append("do: block once: which one?")
    return pb.CreateTaskRequest(
        request_id=f"{task_id}-create",
        id=task_id,
        title=f"Sweep {number}",
        description="\n".join(lines),
        task_type=pb.TASK_TYPE_OPS,
        priority=chance.choice((pb.PRIORITY_P0, pb.PRIORITY_P1, pb.PRIORITY_P2)),
        assigned_group="developer",
        gate=chance.choice(GATES),
    )


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
    founder = Founder()
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
                    await founder.load(governance, task(number, chance))

            raging = asyncio.create_task(chaos.rage(MOMENTS))
            await asyncio.gather(*(load(number) for number in range(TASKS)))
            await raging
            tasks = await founder.settle(governance, TASKS)
    assert len(chaos.kills) >= MOMENTS
    assert set(chaos.kills) == {"agent", *(service.name for service in SERVICES)}
    check(founder, tasks, short_home / "effects.log", short_home / "groups")
    check_ledger(short_home / "store" / "nanoclaw.db", short_home / "effects.log")
