"""What was so when a start was decided is looked at again where it is made: another may have been there meanwhile."""

from typing import Any

import pytest
import world as w

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import leases
from nanoclaw_dispatcher.board import Candidate
from nanoclaw_dispatcher.dispatch import Start, decide
from nanoclaw_dispatcher.ending import RetryPolicy
from nanoclaw_dispatcher.lifecycle import Code
from nanoclaw_dispatcher.runtime import EndReason


async def candidate_of(one: Any, message: Any) -> Candidate:
    """The start that the rules ask for at that reading."""
    task = await one.engine.means.governance.as_task(message)
    step = decide(task, (), one.engine.policy).step
    assert isinstance(step, Start)
    return Candidate(step, task, one.engine.means.now)


async def test_a_slot_that_another_took_meanwhile_is_not_there_any_more(world: Any) -> None:
    """Two dispatchers may see the last one free at once: it is counted in the transaction that takes it."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher(max_containers=1)
    await world.operator.ready("t1")
    await world.until(lambda: world.fake.running)
    candidate = await candidate_of(one, await world.operator.ready("t2"))
    await one.engine._begin(candidate, "")
    assert [row["task_id"] for row in world.attempts()] == ["t1"]
    await world.until(lambda: "t2" in one.engine.board.candidates, "it waits on")


async def test_a_start_that_another_made_meanwhile_is_not_made_again(world: Any) -> None:
    """The rules are asked once more in the transaction that inserts, and now say that it is served."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher()
    candidate = await candidate_of(one, await world.operator.ready("t1"))
    await world.until(lambda: world.fake.running)
    await one.engine._begin(candidate, "")
    assert len(world.dispatches()) == len(world.attempts()) == len(world.fake.runs) == 1


async def one_that_waits(world: Any) -> tuple[Any, str]:
    """A dispatcher whose dispatch waits long for its second attempt, and whose lease a thief has."""

    async def executor(run: Any, hands: Any) -> int:
        return 1

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher(retry=RetryPolicy(3, 3600.0, 3600.0))
    await world.operator.ready("t1")
    (dispatch,) = await world.until(lambda: [row for row in world.dispatches() if one.engine.queue.waits(row["id"])])
    await one.database.write(lambda tx: leases.take(tx, dispatch["id"], owner="thief", seconds=3600))
    return one, dispatch["id"]


async def test_who_lost_the_lease_makes_no_further_attempt(world: Any) -> None:
    """The next attempt is the new driver's."""
    one, dispatch_id = await one_that_waits(world)
    with pytest.raises(leases.LeaseLost):
        await one.engine._begin(None, dispatch_id)
    assert len(world.attempts()) == 1


async def test_who_lost_the_lease_closes_nothing(world: Any) -> None:
    """Nor is it told as an error: the dispatch is another's now."""
    one, dispatch_id = await one_that_waits(world)
    await one.engine._close_waiting(dispatch_id, Code.WITHDRAWN, "the task has moved", 99)
    assert [row["state"] for row in world.dispatches()] == ["ENQUEUED"]
    assert not one.engine.queue.waits(dispatch_id)


async def steal(one: Any, world: Any) -> None:
    """Another dispatcher has the lease from now on."""
    (dispatch,) = world.dispatches()
    await one.database.write(lambda tx: leases.take(tx, dispatch["id"], owner="thief", seconds=3600))


async def test_who_lost_the_lease_while_it_started_an_agent_records_nothing(world: Any) -> None:
    """Who has it now finds the agent by itself, and adopts it."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher(fate=w.Fate())
    one.engine.means.runtimes["process"].after["start"] = lambda: steal(one, world)
    await world.operator.ready("t1")
    await world.until(lambda: world.fake.running and not one.engine.pursuits)
    assert [row["state"] for row in world.attempts()] == ["ENQUEUED"]
    assert "start" not in [row["action"] for row in world.log()]


async def test_who_lost_the_lease_records_no_end(world: Any) -> None:
    """What came of the attempt is for its driver to say."""
    go = w.asyncio.Event()

    async def executor(run: Any, hands: Any) -> int:
        await go.wait()
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher(lease_seconds=3600)
    await world.operator.ready("t1")
    await world.until(lambda: [row for row in world.attempts() if row["state"] == "STARTED"])
    await steal(one, world)
    go.set()
    await world.until(lambda: not one.engine.pursuits)
    assert [row["state"] for row in world.attempts()] == ["STARTED"]
    assert [row["state"] for row in world.dispatches()] == ["STARTED"]


async def test_who_lost_the_lease_lets_go_of_the_agent_with_the_next_renewal(world: Any) -> None:
    """Long before the agent ends, which is left to its driver."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher(lease_seconds=0.3)
    await world.operator.ready("t1")
    await world.until(lambda: [row for row in world.attempts() if row["state"] == "STARTED"])
    await steal(one, world)
    await world.until(lambda: not one.engine.pursuits)
    assert world.fake.running


async def test_an_attempt_that_could_not_be_started_is_sealed(world: Any) -> None:
    """It was created, and whoever would start it later, not knowing, finds it over."""
    world.fake.fail("start", NanoclawError(Kind.PRECONDITION, "BROKEN", "not with this kernel"))
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    first, second = world.attempts()
    assert (first["state"], first["outcome"]) == ("FAILED", "START_FAILED")
    assert world.fake.attempts[first["id"]].seen.reason is EndReason.STOPPED
    assert world.fake.runs == [second["id"]]


async def test_a_task_that_moved_while_its_dispatcher_was_dead_gets_no_agent(world: Any) -> None:
    """The claim is repeated and answered as before; what counts is where the task is now."""
    claimed = w.asyncio.Event()

    async def die() -> None:
        claimed.set()
        await w.asyncio.Event().wait()

    first = await world.dispatcher()
    first.governance.after["TransitionTask"] = die
    await world.operator.ready("t1")
    await claimed.wait()
    await first.crash()
    await world.operator.move("t1", "BLOCKED")
    second = await world.dispatcher(begin=False)
    second.engine.look = lambda *_: None  # the launch sees it by itself, before the rules do
    await second.engine.upkeep.adopt()
    await world.quiet()
    assert not [name for name, _ in world.fake.calls if name in ("create", "start")]
    assert [(row["state"], row["code"]) for row in world.dispatches()] == [("CANCELLED", "WITHDRAWN")]


async def test_what_is_cancelled_while_it_is_created_is_not_started(world: Any) -> None:
    """Creating may take seconds; the wish is looked at once more before the start."""
    one = await world.dispatcher(fate=w.Fate())
    api = await world.api(one)

    async def cancel() -> None:
        (dispatch,) = world.dispatches()
        await api.CancelDispatch(w.pb_cancel(dispatch["id"], "not that"))
        await one.engine.pursuits[dispatch["id"]]._unwanted.wait()

    one.engine.means.runtimes["process"].after["create"] = cancel
    await world.operator.ready("t1")
    task = await world.at("t1", "BLOCKED")
    await world.quiet()
    assert task.state_reason == "not that"
    assert world.fake.runs == []
