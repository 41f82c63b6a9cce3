"""READY until an agent's first line in a container, over a bare create and start of the same image and command."""

import asyncio
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker

from bench.agent_start import started
from bench.rows import Row
from bench.system import CLEAN, home, system
from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc

RUNS = 20
WARM = 3
REST = 0.3
"""Seconds before each start: an engine goes on clearing up for a while after a container has ended."""
IMAGES = ("nanoclaw-agent:local", "nanoclaw-agent:latest", "nanoclaw-base:bookworm")
HOST = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
COMMAND = ("/bin/sh", "-c", 'date +%s%N > "/workspace/group/$NANOCLAW_TASK_ID"')


def missing() -> str:
    """Why this can't be measured here; empty if it can."""
    try:
        with docker.APIClient(HOST, version="auto", timeout=10) as api:
            if not _image(api):
                return f"the engine has none of the images {', '.join(IMAGES)}"
    except docker.errors.DockerException as error:
        return f"no Docker engine at {HOST}: {error}"
    return ""


def _image(api: docker.APIClient) -> str:
    return next((name for name in IMAGES if api.images(name)), "")


async def bare(api: docker.APIClient, image: str, folder: Path, number: int) -> float:
    """Milliseconds from a bare create and start until the command runs: no network, one folder mounted, no limits."""
    config: Mapping[str, Any] = {
        "Image": image,
        "Entrypoint": [],
        "Cmd": [*COMMAND],
        "Env": [f"NANOCLAW_TASK_ID=bare-{number}"],
        "HostConfig": {"NetworkMode": "none", "Binds": [f"{folder}:/workspace/group"]},
    }
    name = f"nanoclaw-bench-{folder.parent.parent.name}-{number}"

    def begin() -> None:
        api.create_container_from_config(dict(config), name)
        api.start(name)

    began = time.time_ns()
    begun = asyncio.create_task(asyncio.to_thread(begin))
    ran = await started(folder / f"bare-{number}")
    await begun
    await asyncio.to_thread(api.remove_container, name, force=True)
    return (ran - began) / 1e6


async def rows() -> list[Row]:
    """The ratio of the medians, one container at a time, by turns."""
    with docker.APIClient(HOST, version="auto", timeout=60) as api:
        image = _image(api)
        async with home() as where:
            (where / "config").mkdir()
            (where / "config" / "groups.toml").write_text(
                f"""\
[groups.main]
role = "main"
[groups.developer]
role = "executor"
runtime = "docker"
image = "{image}"
command = [{", ".join(f"'''{word}'''" for word in COMMAND)}]
wip_limit = 1000
"""
            )
            environ = {
                **CLEAN,
                "NANOCLAW_DISPATCHER_MAX_ATTEMPTS": "1",
                "NANOCLAW_DISPATCHER_DOCKER_PREFIX": f"{where.name}-",
                **({"NANOCLAW_GATEWAY_AGENT_UID": "10002"} if os.getuid() == 0 else {}),
            }
            folder = where / "groups" / "developer"
            ours, theirs = [], []
            async with (
                system(where, environ) as one,
                one.channel("governance") as channel,
                one.channel("dispatcher") as to_dispatcher,
            ):
                stub: governance_pb2_grpc.GovernanceServiceAsyncStub = governance_pb2_grpc.GovernanceServiceStub(
                    channel
                )
                board: dispatcher_pb2_grpc.DispatcherServiceAsyncStub = dispatcher_pb2_grpc.DispatcherServiceStub(
                    to_dispatcher
                )
                for number in range(RUNS + WARM):
                    await asyncio.sleep(REST)
                    ready = await _make_ready(stub, one.metadata, f"start-{number}")
                    ran = await started(folder / f"start-{number}")
                    while (await board.GetStatus(dispatcher.GetStatusRequest(), metadata=one.metadata)).running:
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(REST)
                    alone = await bare(api, image, folder, number)
                    if number >= WARM:
                        ours.append((ran - ready) / 1e6)
                        theirs.append(alone)
            for left in api.containers(all=True, filters={"label": [f"nanoclaw.home={os.path.realpath(where)}"]}):
                api.remove_container(left["Id"], force=True)
    base = statistics.median(theirs)
    return [
        Row(
            f"READY until a container's first line, over a bare create + start of {image} ({base:.0f} ms)",
            1,
            round(statistics.median(ours) / base, 3),
            1.25,
            False,
            p50_ms=round(statistics.median(ours), 1),
            p99_ms=round(max(ours), 1),
        )
    ]


async def _make_ready(stub: Any, metadata: Any, task_id: str) -> int:
    """Makes a task and moves it to READY; answers when it was, nanoseconds since 1970."""
    created = pb.CreateTaskRequest(
        request_id=task_id, id=task_id, title="Start", task_type=pb.TASK_TYPE_OPS, assigned_group="developer"
    )
    await stub.CreateTask(created, metadata=metadata)
    for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
        move = pb.TransitionTaskRequest(request_id=f"{task_id}-{state}", task_id=task_id, to_state=state)
        await stub.TransitionTask(move, metadata=metadata)
    return time.time_ns()
