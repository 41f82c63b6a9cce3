"""The process's recipe, started as a value."""

import asyncio
import contextlib
from pathlib import Path

from nanoclaw_dispatcher.__main__ import run
from nanoclaw_dispatcher.settings import Settings
from nanoclaw_telemetry import off


async def test_a_start_clears_away_what_the_killed_left(home: Path) -> None:
    """One lock file for each dispatcher that was killed would else stay for ever; it leaves none of its own."""
    (home / "run").mkdir(exist_ok=True)
    for instance in ("killed", "killed-too"):
        (home / "run" / f"dispatcher-{instance}.lock").touch()
    ready = asyncio.Event()
    running = asyncio.create_task(run(Settings(home=home, drain_seconds=0.0), off(), ready=ready.set, runtimes={}))
    async with asyncio.timeout(20):
        await ready.wait()
    (left,) = (home / "run").glob("dispatcher-*.lock")
    assert "killed" not in left.name
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert not list((home / "run").glob("dispatcher-*.lock"))
