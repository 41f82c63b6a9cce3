"""The process: settings, start, serve, stop."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_governance.__main__ import run
from nanoclaw_governance.settings import Settings, load
from nanoclaw_telemetry import off


def test_settings_are_strict() -> None:
    """Unknown variables stop the start; shared ones are shared."""
    settings = load({"NANOCLAW_HOME": "/srv/nc", "NANOCLAW_GOVERNANCE_STRICT": "1", "NANOCLAW_BROKER_X": "other's"})
    assert settings.home == Path("/srv/nc")
    assert settings.policy.strict
    assert not settings.policy.trust_main
    assert settings.addresses == ["unix:/srv/nc/run/governance.sock"]
    assert settings.broker_address == "unix:/srv/nc/run/broker.sock"
    two = load({"NANOCLAW_GOVERNANCE_LISTEN": "unix:/a.sock, 127.0.0.1:50051", "NANOCLAW_GOVERNANCE_TRUST_MAIN": "yes"})
    assert two.addresses == ["unix:/a.sock", "127.0.0.1:50051"]
    assert two.policy.trust_main
    with pytest.raises(Exception, match="UNKNOWN_SETTING"):
        load({"NANOCLAW_GOVERNANCE_STRICKT": "1"})
    with pytest.raises(Exception, match="INVALID_SETTING"):
        load({"NANOCLAW_GOVERNANCE_STRICT": "maybe"})


async def test_it_runs_as_a_value(home, dial) -> None:
    """Started in a test, it says when it is ready, serves, and stops when cancelled."""
    ready = asyncio.Event()
    running = asyncio.create_task(run(Settings(home=home, drain_seconds=1.0), off(), ready=ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    stub = governance_pb2_grpc.GovernanceServiceStub(dial(f"unix:{home}/run/governance.sock"))
    assert (await stub.GetStatus(pb.GetStatusRequest())).version
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_process_drains_on_sigterm_and_keeps_what_it_said(home, dial) -> None:
    """`python -m nanoclaw_governance`: exit 0, and the next one has the task."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "NANOCLAW_HOME": str(home)}
    address = f"unix:{home}/run/governance.sock"

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nanoclaw_governance", env=environ, stderr=asyncio.subprocess.DEVNULL
        )

    process = await start()
    channel = dial(address, attempts=1)
    async with asyncio.timeout(30):
        await channel.channel_ready()
    stub = governance_pb2_grpc.GovernanceServiceStub(channel)
    request = pb.CreateTaskRequest(request_id="r", title="t", task_type=pb.TASK_TYPE_BUG)
    task = (await stub.CreateTask(request)).task
    watching = stub.WatchTasks(pb.WatchTasksRequest())
    await watching.read()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    process = await start()
    async with asyncio.timeout(30):
        await channel.channel_ready()
    stub = governance_pb2_grpc.GovernanceServiceStub(dial(address))
    assert (await stub.GetTask(pb.GetTaskRequest(task_id=task.id))).task == task
    process.kill()
    await process.wait()
