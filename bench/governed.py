"""Governed tasks from INBOX to DONE, 16 at once, against as many durable steps of DBOS on SQLite, in one run."""

import asyncio
import itertools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.instant import InstantRuntime
from bench.rows import Row
from bench.system import CLEAN, System, home, system
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES
from nanoclaw_dispatcher.__main__ import run as run_dispatcher
from nanoclaw_dispatcher.settings import load
from nanoclaw_telemetry import setup

CALLERS = 16
TASKS = 200
HERE = Path(__file__).parent
VENV = HERE / ".venv-dbos"
REQUIREMENTS = HERE.parent / "requirements" / "bench-dbos.txt"
# What a caller or an agent was told is durable: requests answered, files taken, and the dispatcher's own facts.
COUNTED = ("gov_requests", "ipc_requests", "dispatch_activities")
UNLIMITED = {"NANOCLAW_GOVERNANCE_RATE_FACTOR": "1000000"}
_numbers = itertools.count()


def dbos_python() -> Path:
    """The interpreter of DBOS's own environment, made at the first use."""
    python = VENV / "bin" / "python"
    if not (VENV / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(REQUIREMENTS)], check=True
        )
        (VENV / ".ready").touch()
    return python


async def rows() -> list[Row]:
    """The ratio of durable steps a second, medians of three rounds in turn."""
    python = await asyncio.to_thread(dbos_python)
    others = [service for service in SERVICES if service.name != "dispatcher"]
    found: list[tuple[float, float, float]] = []
    async with home() as where, system(where, UNLIMITED, others) as one:
        settings = load({"NANOCLAW_HOME": str(where), "NANOCLAW_DISPATCHER_MAX_CONTAINERS": "32"})
        telemetry = setup("dispatcher", {**CLEAN, "NANOCLAW_LOG_LEVEL": "ERROR"})
        ready = asyncio.Event()
        dispatcher = asyncio.create_task(
            run_dispatcher(settings, telemetry, ready=ready.set, runtimes={"process": InstantRuntime()})
        )
        await ready.wait()
        await _round(one, CALLERS)
        for number in range(3):
            steps, seconds, latency = await _round(one, TASKS)
            folder = where / f"dbos-{number}"
            folder.mkdir()
            theirs = await asyncio.to_thread(_dbos, python, folder, steps // TASKS)
            found.append((steps / seconds, theirs, latency))
        dispatcher.cancel()
        await asyncio.gather(dispatcher, return_exceptions=True)
    ours, theirs, latency = sorted(found, key=lambda one: one[0] / one[1])[1]
    path = f"governed INBOX → DONE, durable steps a second / DBOS on SQLite ({theirs:.0f} a second)"
    return [
        Row(path, CALLERS, round(ours / theirs, 2), 2, True, p50_ms=round(latency * 1e3, 1), per_second=round(ours))
    ]


async def _round(one: System, tasks: int) -> tuple[int, float, float]:
    """Drives so many tasks to DONE; answers durable steps, seconds, and the median seconds of a task."""
    async with one.channel("governance") as channel:
        stub: governance_pb2_grpc.GovernanceServiceAsyncStub = governance_pb2_grpc.GovernanceServiceStub(channel)
        done: dict[str, asyncio.Event] = {}
        head = (await stub.GetStatus(pb.GetStatusRequest(), metadata=one.metadata)).head

        async def watch() -> None:
            async for row in stub.WatchTasks(pb.WatchTasksRequest(cursor=head), metadata=one.metadata):
                if row.activity.to_state == pb.TASK_STATE_DONE and row.activity.task_id in done:
                    done[row.activity.task_id].set()

        watching = asyncio.create_task(watch())
        before, began = _steps(one.home), time.perf_counter()
        latencies: list[float] = []

        async def caller(left: Iterator[int]) -> None:
            for _ in left:
                task_id = f"governed-{next(_numbers)}"
                done[task_id] = asyncio.Event()
                start = time.perf_counter()
                await _send(stub, one, task_id)
                await done[task_id].wait()
                latencies.append(time.perf_counter() - start)

        left = iter(range(tasks))
        await asyncio.gather(*(caller(left) for _ in range(CALLERS)))
        seconds = time.perf_counter() - began
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return _steps(one.home) - before, seconds, sorted(latencies)[len(latencies) // 2]


async def _send(stub: "governance_pb2_grpc.GovernanceServiceAsyncStub", one: System, task_id: str) -> None:
    await stub.CreateTask(
        pb.CreateTaskRequest(
            request_id=task_id,
            id=task_id,
            title="Governed",
            task_type=pb.TASK_TYPE_OPS,
            assigned_group="developer",
            gate=pb.GATE_SECURITY,
        ),
        metadata=one.metadata,
    )
    for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
        await stub.TransitionTask(
            pb.TransitionTaskRequest(request_id=f"{task_id}-{state}", task_id=task_id, to_state=state),
            metadata=one.metadata,
        )


def _steps(where: Path) -> int:
    with closing(sqlite3.connect(f"file:{where}/store/nanoclaw.db?mode=ro", uri=True)) as database:
        return sum(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in COUNTED)


def _dbos(python: Path, folder: Path, steps: int) -> float:
    """Steps a second of DBOS, with as many tasks and steps."""
    script = HERE / "dbos_workload.py"
    command = [str(python), str(script), str(folder), str(TASKS), str(steps), str(CALLERS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=CLEAN)
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return float(answer["steps"] / answer["seconds"])
