"""READY until the agent's process runs, over a bare spawn of the same command: the whole way, sandboxed."""

import asyncio
import os
import statistics
import time
from pathlib import Path

from bench.rows import Row
from bench.system import CLEAN, home, system
from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc

RUNS = 30
COMMAND = ("/bin/sh", "-c", 'date +%s%N > "$NANOCLAW_GROUP_DIR/$NANOCLAW_TASK_ID"')
GROUPS = f"""\
[groups.main]
role = "main"
[groups.developer]
role = "executor"
command = [{", ".join(f"'''{word}'''" for word in COMMAND)}]
wip_limit = 1000
"""


async def started(file: Path) -> int:
    """When the command ran, nanoseconds since 1970. It says so itself: looking often would slow it."""
    while not (file.exists() and (text := file.read_text().strip())):
        await asyncio.sleep(0.01)
    return int(text)


async def bare(folder: Path, number: int) -> float:
    """Milliseconds from a bare spawn until the command runs."""
    environ = {**os.environ, "NANOCLAW_GROUP_DIR": str(folder), "NANOCLAW_TASK_ID": f"bare-{number}"}
    began = time.time_ns()
    process = await asyncio.create_subprocess_exec(*COMMAND, env=environ)
    ran = await started(folder / f"bare-{number}")
    await process.wait()
    return (ran - began) / 1e6


async def rows() -> list[Row]:
    """The difference of the medians, one agent at a time."""
    async with home() as where:
        (where / "config").mkdir()
        (where / "config" / "groups.toml").write_text(GROUPS)
        environ = {**CLEAN, "NANOCLAW_DISPATCHER_MAX_ATTEMPTS": "1"}
        async with (
            system(where, environ) as one,
            one.channel("governance") as channel,
            one.channel("dispatcher") as to_dispatcher,
        ):
            stub: governance_pb2_grpc.GovernanceServiceAsyncStub = governance_pb2_grpc.GovernanceServiceStub(channel)
            board: dispatcher_pb2_grpc.DispatcherServiceAsyncStub = dispatcher_pb2_grpc.DispatcherServiceStub(
                to_dispatcher
            )
            ours, theirs = [], []
            for number in range(RUNS + 3):
                task_id = f"start-{number}"
                created = pb.CreateTaskRequest(
                    request_id=task_id,
                    id=task_id,
                    title="Start",
                    task_type=pb.TASK_TYPE_OPS,
                    assigned_group="developer",
                )
                await stub.CreateTask(created, metadata=one.metadata)
                for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
                    move = pb.TransitionTaskRequest(request_id=f"{task_id}-{state}", task_id=task_id, to_state=state)
                    await stub.TransitionTask(move, metadata=one.metadata)
                ready = time.time_ns()
                ran = await started(where / "groups" / "developer" / task_id)
                while (await board.GetStatus(dispatcher.GetStatusRequest(), metadata=one.metadata)).running:
                    await asyncio.sleep(0.01)
                spawned = await bare(where, number)
                if number >= 3:  # the first ones warm up
                    ours.append((ran - ready) / 1e6)
                    theirs.append(spawned)
    more = statistics.median(ours) - statistics.median(theirs)
    return [
        Row(
            f"READY until the agent's process runs, ms more than a bare spawn ({statistics.median(theirs):.1f} ms)",
            1,
            round(more, 1),
            25,
            False,
            p50_ms=round(statistics.median(ours), 1),
            p99_ms=round(max(ours), 1),
        )
    ]
