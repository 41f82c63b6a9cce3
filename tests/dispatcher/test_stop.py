"""The stop: whatever a task of the engine is at in that moment, it ends."""

import asyncio
from typing import Any

import pytest

from nanoclaw_dispatcher.means import wait_event


async def _for_ever(event: asyncio.Event) -> None:
    """As the sweep does: waits for the event or its time, then works, then waits again."""
    while True:
        await wait_event(event, 60)
        event.clear()


@pytest.mark.parametrize("ticks", range(6))
async def test_a_cancellation_that_meets_the_event_is_not_lost(ticks: int) -> None:
    """asyncio.wait_for of Python 3.11 loses it at the tick between the event and its delivery: the stop then waits
    for a task that waits for ever, which is how it hung."""
    event = asyncio.Event()
    task = asyncio.create_task(_for_ever(event))
    for _ in range(3):
        await asyncio.sleep(0)
    event.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert task.cancelled()


@pytest.mark.parametrize("ticks", range(12))
async def test_a_stop_while_a_sweep_begins_ends(world: Any, ticks: int) -> None:
    """At each of the first ticks after the sweep was called for, by one cancellation of every task."""
    one = await world.dispatcher()
    await world.until(lambda: one.engine.follower.watching)
    one.engine.upkeep.sweep_soon()
    for _ in range(ticks):
        await asyncio.sleep(0)
    tasks = set(one.engine._tasks)
    async with asyncio.timeout(10):
        await one.stop()
    assert all(task.cancelling() <= 1 for task in tasks)
