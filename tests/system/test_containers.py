"""The system with its agents in real containers: the main job, and a dispatcher that is killed in the middle of it."""

import asyncio
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import engines
import pytest
from rich.console import Console

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.demo import demo
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.stage import Processes
from nanoclaw_cli.supervisor import Supervisor, read_state
from nanoclaw_rpc import connect
from nanoclaw_store.testing import invariants

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]


async def test_the_demo_plays_in_containers(short_home: Path, contained: dict[str, str]) -> None:
    """Every task where it must be, each attempt in a container of its own, and the agents' spans in the trace."""
    out = io.StringIO()
    assert await demo(Processes(short_home, contained), Console(file=out, width=250)), out.getvalue()
    assert "chain whole, state equals the fold of the log" in out.getvalue()
    with engines.client() as api:
        found = api.containers(all=True, filters={"label": [f"nanoclaw.home={os.path.realpath(short_home)}"]})
    assert {one["Labels"]["nanoclaw.group"] for one in found} == {"main", "developer", "security"}
    assert {one["State"] for one in found} == {"exited"}
    lines = (short_home / "logs" / "traces.jsonl").read_text().splitlines()
    assert any(json.loads(line)["service"].startswith("nanoclaw-agent") for line in lines)


async def test_agents_go_on_while_their_dispatcher_is_killed(short_home: Path, contained: dict[str, str]) -> None:
    """The next one adopts them: each ran once. What belongs to nobody, and bears our label, is stopped and removed."""
    (short_home / "config").mkdir()
    script = "echo run >> $NANOCLAW_TASK_ID; sleep 3; exec python3 -m nanoclaw_agent.reference"
    command = f'command = ["/bin/sh", "-c", "{script}"]'
    (short_home / "config" / "groups.toml").write_text(
        f'[groups.main]\nrole = "main"\n[groups.developer]\nrole = "executor"\n{command}\n'
    )
    async with Supervisor(short_home, [sys.executable], contained, backoff=(0.05, 0.1, 0.2)).running():
        token = short_home / "secrets" / "operators" / "founder.token"
        async with connect(SERVICES[0].target(short_home), token_file=token) as channel:
            governance = governance_pb2_grpc.GovernanceServiceStub(channel)
            names = [f"t-{number}" for number in range(3)]
            for name in names:
                await _make_ready(governance, name)
            marks = [short_home / "groups" / "developer" / name for name in names]
            await _until(lambda: all(mark.exists() for mark in marks))
            os.kill(read_state(short_home)["dispatcher"][0], signal.SIGKILL)
            orphan = await asyncio.to_thread(_orphan, short_home, contained["NANOCLAW_DISPATCHER_IMAGE"])

            async def handed_in() -> bool:
                found = (await governance.ListTasks(pb.ListTasksRequest(page_size=10))).tasks
                return all(task.state == pb.TASK_STATE_REVIEW for task in found)

            await _until(handed_in)
            assert [mark.read_text() for mark in marks] == ["run\n"] * 3
            await _until(lambda: not _there(orphan))
    invariants(short_home / "store" / "nanoclaw.db")


def _orphan(home: Path, image: str) -> str:
    """A container that looks like one of ours, and that no row knows."""
    config: dict[str, Any] = {
        "Image": image,
        "Cmd": ["sleep", "100"],
        "Labels": {"nanoclaw.home": os.path.realpath(home), "nanoclaw.attempt": "nc-orphan-1"},
        "HostConfig": {"NetworkMode": "none", "Init": True},
    }
    name = f"{home.name}-nc-orphan-1"
    with engines.client() as api:
        api.create_container_from_config(config, name)
        api.start(name)
    return name


def _there(name: str) -> bool:
    with engines.client() as api:
        return bool(api.containers(all=True, filters={"name": [f"^/{name}$"]}))


async def _make_ready(governance: Any, name: str) -> None:
    task = pb.CreateTaskRequest(
        request_id=name, id=name, title=name, task_type=pb.TASK_TYPE_OPS, assigned_group="developer"
    )
    await governance.CreateTask(task)
    for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
        move = pb.TransitionTaskRequest(request_id=f"{name}-{state}", task_id=name, to_state=state)
        await governance.TransitionTask(move)


async def _until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not (await answer if asyncio.iscoroutine(answer := true()) else answer):
            await asyncio.sleep(0.05)
