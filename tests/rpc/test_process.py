"""The process of a service."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nanoclaw_rpc.process import YOUNG, settle

SERVICE = """
import asyncio, gc
from nanoclaw_rpc.process import run_process

async def serve(ready):
    ready()
    print(type(asyncio.get_running_loop()).__module__, gc.get_freeze_count() > 1000)

run_process(serve)
"""


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)
    gc.unfreeze()


def test_a_service_runs_on_uvloop_and_freezes_what_it_has_loaded() -> None:
    """In a process of its own, as services do."""
    done = subprocess.run([sys.executable, "-c", SERVICE], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["uvloop", "True"]


@pytest.mark.parametrize(
    ("raised", "code", "last"),
    [
        ("pass", 0, ""),
        (
            "raise NanoclawError(Kind.UNAVAILABLE, 'TAKEN', 'taken', next_step='take another')",
            1,
            "broker: TAKEN: taken; next step: take another",
        ),
        (
            "open('/nowhere/at/all')",
            1,
            "broker: FILE_FAILED: /nowhere/at/all: no such file or directory; next step: see that the folder is"
            " there, and that this user may write there",
        ),
    ],
)
def test_why_a_service_ends_is_its_last_line(raised: str, code: int, last: str) -> None:
    """The supervisor shows that line; a refusal comes without a traceback."""
    program = f"""
import sys
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.process import exit_code

def work():
    {raised}

sys.exit(exit_code("broker", work))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == code
    assert (done.stderr.splitlines() or [""])[-1] == last
    assert ("Traceback" in done.stderr) is ("open" in raised)


async def test_garbage_made_later_is_still_found(thresholds: tuple[int, int, int]) -> None:
    """Frozen is only what was there."""
    settle()
    assert gc.get_threshold() == (YOUNG, *thresholds[1:])
    circle: list[object] = [asyncio.Event()]
    circle.append(circle)
    del circle
    assert gc.collect() > 0
