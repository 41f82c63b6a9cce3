"""A dispatcher that dies between any two steps, and the next one that goes on from the rows."""

import random
from typing import Any

import pytest
import world as w

CONTAINED = w.Group("developer", w.Role.EXECUTOR, runtime="docker")

STEPS = 72
"""Boundaries between steps on a gated task's way, start-up included: the last parameter must come after the end."""


async def _run(world: Any, *strikes: int) -> int:
    """One gated task; dispatchers die at the boundaries given, one after the other, and a last one does not."""
    await world.operator.ready("t1", gate="GATE_SECURITY")
    passed = 0
    for strike in strikes:
        fate = w.Fate(strike)
        one = await _begin(world, fate)
        await world.until(lambda fate=fate: fate.struck.is_set() or _over(world))
        await one.crash()
        passed = fate.passed
    await world.dispatcher()
    await world.at("t1", "DONE")
    await world.quiet()
    return passed


async def _begin(world: Any, fate: Any) -> Any:
    """Starts a dispatcher that may be struck while it starts."""
    one = await world.dispatcher(begin=False, fate=fate)
    starting = w.asyncio.ensure_future(one.engine.start())
    await world.until(lambda: starting.done() or fate.struck.is_set())
    starting.cancel()
    await w.asyncio.gather(starting, return_exceptions=True)
    return one


def _over(world: Any) -> bool:
    return world.state_of("t1") == "DONE" and not any(
        row["state"] in ("ENQUEUED", "STARTED") for row in world.dispatches()
    )


def _assert_once(world: Any) -> None:
    """Each need was met by one attempt that ran once, and every mailbox was drained."""
    assert [(row["rule"], row["state"]) for row in world.dispatches()] == [(1, "DONE"), (2, "DONE")], world.story()
    assert [row["state"] for row in world.attempts()] == ["DONE", "DONE"], world.story()
    assert world.fake.runs == [row["id"] for row in world.attempts()]
    assert {row["id"] for row in world.attempts()} <= set(world.gateway.closed)


def _sample(numbers: range, each: int) -> list[Any]:
    """All of them under `make test-crash`, every so-manieth always."""
    return [n if n % each == 0 else pytest.param(n, marks=pytest.mark.crash) for n in numbers]


@pytest.mark.parametrize("boundary", _sample(range(1, STEPS + 1), 6))
async def test_a_crash_at_any_boundary_is_made_good(world: Any, boundary: int) -> None:
    """Before and after every write, RPC and call of the runtime: the next one goes on, and nothing runs twice."""
    await _run(world, boundary)
    _assert_once(world)


async def test_the_boundaries_are_all_there_are(world: Any) -> None:
    """The sweep above goes past the end: no step is left out of it."""
    assert 20 < await _run(world, 10_000) <= STEPS


@pytest.mark.parametrize("seed", _sample(range(20), 3))
async def test_crashes_while_recovering_are_made_good_too(world: Any, seed: int) -> None:
    """Up to four dispatchers in a row die, each wherever it is."""
    chance = random.Random(seed)
    await _run(world, *(chance.randint(1, 24) for _ in range(chance.randint(2, 4))))
    _assert_once(world)


async def test_an_agent_goes_on_while_its_dispatcher_is_gone(world: Any) -> None:
    """Adoption: the same process, the same attempt, its end judged by the next dispatcher."""
    go = w.asyncio.Event()

    async def executor(run: Any, hands: Any) -> int:
        await go.wait()
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    await one.crash()
    second = await world.dispatcher()
    await world.until(lambda: any(row["action"] == "adopt" for row in world.log()))
    assert list(second.engine.pursuits) == [world.dispatches()[0]["id"]]
    go.set()
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert len(world.fake.runs) == 1


async def test_an_attempt_is_adopted_by_the_runtime_that_has_it(world: Any) -> None:
    """Its group was given another runtime while it ran: it is not taken for lost, and nothing runs beside it."""
    go = w.asyncio.Event()

    async def executor(run: Any, hands: Any) -> int:
        await go.wait()
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    await one.crash()
    world.groups = w.Groups({"main": w.Group("main", w.Role.MAIN), "developer": CONTAINED})
    other = w.fake_runtime.FakeEngine(w.by_group(world, {"developer": w.hand_in}))
    second = await world.dispatcher(begin=False)
    second.engine.means.runtimes["docker"] = w.fake_runtime.FakeRuntime(other, name="docker")
    await second.engine.start()
    await world.until(lambda: any(row["action"] == "adopt" for row in world.log()))
    go.set()
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [row["state"] for row in world.attempts()] == ["DONE"]
    assert (len(world.fake.runs), other.runs) == (1, [])
    await world.operator.ready("t2")
    await world.at("t2", "REVIEW")
    assert (len(world.fake.runs), len(other.runs)) == (1, 1)
    await world.quiet()
    await other.close()


async def test_an_agent_that_ended_meanwhile_is_judged_by_its_exit_record(world: Any) -> None:
    """It is finished, not started again."""
    go = w.asyncio.Event()

    async def executor(run: Any, hands: Any) -> int:
        await go.wait()
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    attempt = world.attempts()[0]["id"]
    await one.crash()
    go.set()
    await world.fake.attempts[attempt].over.wait()
    await world.dispatcher()
    await world.quiet()
    assert [row["state"] for row in world.attempts()] == ["DONE"]
    assert world.fake.runs == [attempt]


async def test_an_agent_lost_meanwhile_is_replaced(world: Any) -> None:
    """No process and no exit record: LOST, and the next attempt is made."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    attempt = world.attempts()[0]["id"]
    await one.crash()
    world.fake.agent = w.by_group(world, {"developer": w.hand_in})
    world.fake.lose(attempt)
    await world.dispatcher()
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [row["state"] for row in world.attempts()] == ["LOST", "DONE"]


async def test_a_graceful_stop_leaves_agents_running_and_gives_the_leases_up(world: Any) -> None:
    """SIGTERM: no new work, nobody is stopped, the next dispatcher takes over without waiting for a lease."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    await one.stop()
    assert len(world.fake.running) == 1
    second = await world.dispatcher()
    assert len(second.engine.pursuits) == 1


async def test_the_place_in_the_log_is_kept(world: Any) -> None:
    """The next dispatcher reads on from where the last one was."""
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    place = one.engine.follower.place
    await one.stop()
    second = await world.dispatcher(begin=False)
    assert second.engine.follower.place == place


async def test_a_place_that_governance_does_not_know_leads_to_a_full_reading(world: Any) -> None:
    """After a restore of the database the log may be shorter: CURSOR_INVALID, and everything in flight is looked at."""
    first = await world.dispatcher(begin=False)
    await first.database.write(lambda tx: w.notes.save_place(tx, w.notes.Place(7, 1000)))
    await first.stop()
    await world.operator.ready("t1")
    await world.dispatcher()
    await world.at("t1", "REVIEW")
    await world.operator.ready("t2")
    await world.at("t2", "REVIEW")
