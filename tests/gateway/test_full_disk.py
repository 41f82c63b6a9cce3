"""A real disk without any space: what can't be done is said, and what was begun is finished once there is space."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import Kind, NanoclawError

CREATE = {"type": "gov_create", "title": "once", "task_type": "BUG"}


@pytest.fixture
def home(home: Path) -> Iterator[Path]:
    """A home on a file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(home)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield home
    subprocess.run(["umount", "-l", home], check=True)


@pytest.fixture
def fill(home: Path) -> Callable[[], Path]:
    """`ballast = fill()`: not a byte is left until the ballast is unlinked."""

    def write() -> Path:
        ballast = home / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue
        return ballast

    return write


async def test_what_came_on_a_full_disk_is_answered_once_there_is_space(served: Any, fill: Any) -> None:
    """The effect happens once, and is told only when it is recorded."""
    agent = served.mailbox()
    prepared = agent.path / "tasks" / "prepared.tmp"
    prepared.write_text(json.dumps({**CREATE, "request_id": "r-1"}))
    ballast = fill()
    prepared.rename(agent.path / "tasks" / "prepared.json")
    await served.until(lambda: served.governance.tasks)
    assert not (agent.path / "responses" / "r-1.json").exists()
    ballast.unlink()
    assert (await agent.answer("r-1"))["status"] == "executed"
    assert served.governance.faults.effects == ["CreateTask"]


async def test_who_asks_by_rpc_on_a_full_disk_is_told_so(served: Any, fill: Any) -> None:
    """Not of an internal error: of the disk, and what to do; the same request passes later."""
    stub = served.stub()
    calls = {
        "Reply": gateway.ReplyRequest(request_id="r", group="developer", text="hello" * 1000),
        "Submit": gateway.SubmitRequest(request_id="s", group="main", content=json.dumps(CREATE).encode()),
    }
    ballast = fill()
    for rpc, request in calls.items():
        with pytest.raises(NanoclawError) as caught:
            await getattr(stub, rpc)(request)
        assert (caught.value.kind, caught.value.reason) in {
            (Kind.UNAVAILABLE, "FILE_FAILED"),
            (Kind.UNAVAILABLE, "STORE_FULL"),
        }, rpc
        assert "free some space" in caught.value.next_step
    ballast.unlink()
    for rpc, request in calls.items():
        await getattr(stub, rpc)(request)
    assert served.governance.faults.effects == ["CreateTask"]
    assert len(list((served.mailbox().path / "input").iterdir())) == 1
