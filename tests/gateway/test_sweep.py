"""The round under inotify, and what grows old."""

import asyncio
import os
from datetime import timedelta
from typing import Any

from nanoclaw_core import clock

CREATE = {"type": "gov_create", "title": "t", "task_type": "BUG"}


async def test_a_file_that_nobody_told_of_is_found_by_the_sweep(served: Any) -> None:
    """Once it is old enough that its writer must be done."""
    agent = served.mailbox()
    served.box("developer").watch.stop()
    name = agent.write(CREATE)
    await served.sweep()
    assert (agent.path / "tasks" / f"{name}.json").exists()
    served.age_files()
    await served.sweep()
    assert (await agent.answer(name))["status"] == "executed"


async def test_a_sweep_leaves_alone_what_is_being_worked_on(world: Any) -> None:
    """A claim under way is no claim that a crash has left."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(rpc: str) -> None:
        begun.set()
        await go_on.wait()

    world.governance.faults.before = slow
    async with world.running():
        agent = world.mailbox()
        name = agent.write(CREATE)
        await begun.wait()
        await world.sweep()
        assert world.box("developer").taken == 1
        go_on.set()
        assert (await agent.answer(name))["status"] == "executed"
    assert [call[0] for call in world.governance.faults.calls] == ["CreateTask"]


async def test_answers_are_kept_for_a_day(served: Any) -> None:
    """Files and records; the fact that there was a request stays."""
    agent = served.mailbox()
    name = await agent.ask(CREATE)
    old = agent.path / "responses" / f"{name['request_id']}.json"
    await agent.ask({**CREATE, "request_id": "young"})
    sweep = served.gateway.sweep
    await sweep.expire()
    assert old.exists()
    then = (clock.utc_now() - timedelta(hours=23)).timestamp()
    os.utime(old, (then, then))
    sweep._now = lambda: clock.utc_now() + timedelta(hours=2)
    await sweep.expire()
    assert not old.exists()
    assert (agent.path / "responses" / "young.json").exists()
    assert served.rows("SELECT count(*) FROM ipc_answers") == [(2,)]
    sweep._now = lambda: clock.utc_now() + timedelta(hours=25)
    await sweep.expire()
    assert list((agent.path / "responses").iterdir()) == []
    assert served.rows("SELECT count(*) FROM ipc_answers") == [(0,)]
    assert served.rows("SELECT count(*) FROM ipc_requests") == [(2,)]


async def test_one_unusable_mailbox_does_not_keep_the_gateway_from_starting(world: Any) -> None:
    """It is opened, with its snapshots, as soon as it can be."""
    async with world.running():
        pass
    directory = world.home / "ipc" / "developer"
    async with world.running_without(directory):
        assert (await world.mailbox("main").ask(CREATE))["status"] == "executed"
        world.allow(directory)
        for snapshot in directory.glob("*.json"):
            snapshot.unlink()
        await world.sweep()
        assert (await world.mailbox().ask(CREATE))["status"] == "executed"
        assert (directory / "gov_pipeline.json").exists()
