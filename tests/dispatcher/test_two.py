"""Two dispatchers on one database: each task is started once, whoever is first; either takes over from the other."""

import os
from typing import Any

import world as w

from nanoclaw_dispatcher import leases
from nanoclaw_dispatcher.presence import Presence


async def test_two_dispatchers_start_each_task_once(world: Any) -> None:
    """Both watch, both decide, both may run; one key, one attempt, one agent, for every need."""
    for _ in range(2):
        await world.dispatcher(max_containers=8)
    names = [f"t{number}" for number in range(16)]
    await w.asyncio.gather(*(world.operator.ready(name, gate="GATE_SECURITY") for name in names))
    for name in names:
        await world.at(name, "DONE")
    await world.quiet()
    assert len(world.dispatches()) == 32
    assert [row["state"] for row in world.attempts()] == ["DONE"] * 32
    assert sorted(world.fake.runs) == sorted(row["id"] for row in world.attempts())


async def test_the_slots_are_counted_over_all_dispatchers(world: Any) -> None:
    """Three at once means three, not three each."""
    world.fake.agent = w.fake_runtime.idle_agent
    ones = [await world.dispatcher(max_containers=3) for _ in range(2)]
    for number in range(8):
        await world.operator.ready(f"t{number}")
    await world.until(lambda: len(world.fake.running) == 3)
    for one in ones:
        await one.engine.upkeep.sweep()
    assert len(world.fake.running) == 3
    assert len(world.attempts()) == 3


async def test_a_dead_dispatcher_s_work_is_adopted_at_once(world: Any) -> None:
    """Its lock is gone, so nobody waits for its lease to lapse."""
    world.fake.agent = w.fake_runtime.idle_agent
    first = await world.dispatcher(lease_seconds=3600)
    await world.operator.ready("t1")
    await world.until(lambda: world.fake.running)
    second = await world.dispatcher(lease_seconds=3600)
    assert second.engine.pursuits == {}
    await first.crash()
    await second.engine.upkeep.adopt()
    assert list(second.engine.pursuits) == [row["id"] for row in world.dispatches()]
    assert len(world.fake.runs) == 1


async def test_a_lapsed_lease_lets_another_adopt_and_the_sleeper_let_go(world: Any) -> None:
    """A dispatcher that slept through its lease finds it taken: it drops the work, and the agent is untouched."""
    go = w.asyncio.Event()

    async def executor(run: Any, hands: Any) -> int:
        await go.wait()
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    sleeper = await world.dispatcher(lease_seconds=3600)
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    (dispatch,) = world.dispatches()
    other = await world.dispatcher(lease_seconds=3600)
    await other.database.write(lambda tx: leases.take(tx, dispatch["id"], owner="d1", seconds=3600))
    await other.engine.upkeep.resume()
    go.set()
    await world.quiet()
    await world.until(lambda: not sleeper.engine.pursuits)
    assert [row["state"] for row in world.attempts()] == ["DONE"]
    assert len(world.fake.runs) == 1
    assert [row["action"] for row in world.log()].count("end") == 1


async def test_a_dispatcher_that_lost_its_lease_before_the_start_starts_nothing(world: Any) -> None:
    """Between its last write and the start it may have slept for hours."""
    one = await world.dispatcher()

    async def steal() -> None:
        (dispatch,) = world.dispatches()
        await one.database.write(lambda tx: leases.take(tx, dispatch["id"], owner="thief", seconds=3600))

    one.governance.after["TransitionTask"] = steal
    await world.operator.ready("t1")
    await world.until(lambda: world.dispatches() and not one.engine.pursuits)
    assert world.fake.runs == []
    assert [row["state"] for row in world.attempts()] == ["ENQUEUED"]


async def test_cancelling_at_one_dispatcher_reaches_the_other_s_agent(world: Any) -> None:
    """The wish is a row; who drives the dispatch sees it with its next renewal."""
    world.fake.agent = w.fake_runtime.idle_agent
    await world.dispatcher(lease_seconds=0.3)
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    second = await world.dispatcher(lease_seconds=3600)
    api = await world.api(second)
    (dispatch,) = world.dispatches()
    await api.CancelDispatch(w.pb_cancel(dispatch["id"], "not that"))
    await world.at("t1", "BLOCKED")
    await world.quiet()
    assert world.fake.running == []


def test_presence_tells_the_dead_from_the_living(socket_dir: Any) -> None:
    """A held lock is alive, a lock let go is dead, no file at all is not known."""
    ours, theirs = Presence(socket_dir, "ours"), Presence(socket_dir, "theirs")
    assert ours.alive("theirs")
    os.close(theirs._file)  # as the kernel does at a kill
    assert not ours.alive("theirs")
    assert ours.alive("unheard-of")
    ours.sweep()
    assert sorted([path.name for path in socket_dir.iterdir()]) == ["dispatcher-ours.lock"]
    ours.leave()
    assert [path.name for path in socket_dir.iterdir()] == []
