"""What every runtime promises, shown on each alike; the fake that the dispatcher's tests use is no exception."""

import asyncio
from typing import Any

import pytest

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.runtime import EndReason, RunState


async def test_an_attempt_goes_from_absent_to_created_to_running_to_exited(place: Any) -> None:
    """The life of an attempt, as inspect, wait and list see it."""
    assert (await place.runtime.inspect("a-1")).state is RunState.ABSENT
    spec = place.spec("a-1", "polite")
    assert (await place.runtime.create(spec)).state is RunState.CREATED
    assert place.runs("a-1") == 0
    seen = await place.runtime.start("a-1")
    assert seen.alive
    assert seen.started_at
    await place.until(lambda: place.said("a-1", "ready"))
    assert [seen.state for seen in await place.runtime.list()] == [RunState.RUNNING]
    ended = await place.runtime.stop("a-1", 10)
    assert (ended.state, ended.exit_code, ended.reason) == (RunState.EXITED, 5, EndReason.STOPPED)
    assert ended.started_at <= ended.ended_at
    assert await place.runtime.inspect("a-1") == ended
    assert await place.runtime.wait("a-1") == ended
    assert place.runs("a-1") == 1


@pytest.mark.parametrize("code", [0, 1, 3, 255])
async def test_the_exit_code_is_the_agents(place: Any, code: int) -> None:
    """What the agent exits with is what wait answers, and nothing else is claimed to have happened."""
    await place.started("a-1", "exit", str(code))
    ended = await place.runtime.wait("a-1")
    assert (ended.state, ended.exit_code, ended.reason) == (RunState.EXITED, code, EndReason.NONE)


async def test_a_signal_that_killed_the_agent_shows_as_128_and_its_number(place: Any) -> None:
    """A shell's convention, and the engines'."""
    await place.started("a-1", "die")
    ended = await place.runtime.wait("a-1")
    assert (ended.exit_code, ended.reason) == (137, EndReason.NONE)


async def test_a_command_that_is_not_there_is_an_end_and_no_error(place: Any) -> None:
    """START_FAILED tells the dispatcher that trying again won't help before somebody mends the configuration."""
    await place.started("a-1", "no-such-command")
    ended = await place.runtime.wait("a-1")
    assert (ended.state, ended.exit_code, ended.reason) == (RunState.EXITED, 127, EndReason.START_FAILED)
    assert "no-such-command" in await place.runtime.last_lines("a-1")


async def test_the_agent_reads_its_opening_line_and_then_the_end(place: Any) -> None:
    """Stdin holds the one line."""
    await place.started("a-1", "read")
    assert (await place.runtime.wait("a-1")).exit_code == 0
    assert await place.runtime.last_lines("a-1") == '{"prompt": "hi"}'


async def test_create_is_idempotent_and_leaves_what_exists(place: Any) -> None:
    """A dispatcher that died after create creates again."""
    await place.started("a-1", "wait")
    again = await place.runtime.create(place.spec("a-1", "exit", "3"))
    assert again.state is RunState.RUNNING
    await place.runtime.stop("a-1", 5)
    assert (await place.runtime.create(place.spec("a-1", "exit", "3"))).state is RunState.EXITED


async def test_an_attempt_is_started_once_however_often_it_is_asked_for(place: Any) -> None:
    """Two dispatchers, many calls at once, and again after the end: the agent ran once."""
    other = await place.successor()
    await place.runtime.create(place.spec("a-1", "polite"))
    starts = await asyncio.gather(*(runtime.start("a-1") for runtime in (place.runtime, other) * 6))
    assert {seen.state for seen in starts} == {RunState.RUNNING}
    await place.until(lambda: place.said("a-1", "ready"))
    await place.runtime.stop("a-1", 10)
    assert (await other.start("a-1")).state is RunState.EXITED
    assert (await place.runtime.start("a-1")).state is RunState.EXITED
    assert place.runs("a-1") == 1


async def test_starting_what_was_never_created_is_refused(place: Any) -> None:
    """NOT_FOUND, and nothing comes into being."""
    with pytest.raises(NanoclawError) as caught:
        await place.runtime.start("a-1")
    assert (caught.value.kind, caught.value.reason) == (Kind.NOT_FOUND, "ATTEMPT_NOT_FOUND")
    assert await place.runtime.list() == []


async def test_nothing_starts_without_its_mailbox(place: Any) -> None:
    """An agent without a mailbox could tell nobody anything; once it is there, the same attempt starts."""
    spec = place.spec("a-1", "exit", "0")
    spec.mailbox.rmdir()
    await place.runtime.create(spec)
    with pytest.raises(NanoclawError) as caught:
        await place.runtime.start("a-1")
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "NO_MAILBOX")
    spec.mailbox.mkdir()
    await place.runtime.start("a-1")
    assert (await place.runtime.wait("a-1")).exit_code == 0


async def test_an_agent_that_heeds_sigterm_ends_within_the_grace_with_its_own_code(place: Any) -> None:
    """It may put things in order first."""
    await place.started("a-1", "polite")
    ended = await place.runtime.stop("a-1", 10)
    assert (ended.exit_code, ended.reason) == (5, EndReason.STOPPED)
    assert await place.said("a-1", "bye")


async def test_an_agent_that_ignores_sigterm_is_killed_after_the_grace(place: Any) -> None:
    """Nobody stays longer than the grace."""
    await place.started("a-1", "stubborn")
    ended = await place.runtime.stop("a-1", 0.2)
    assert (ended.exit_code, ended.reason) == (137, EndReason.STOPPED)


async def test_a_stop_without_grace_asks_nobody(place: Any) -> None:
    """SIGKILL at once: even the polite one says nothing."""
    await place.started("a-1", "polite")
    assert (await place.runtime.stop("a-1", 0)).exit_code == 137
    assert not await place.said("a-1", "bye")


async def test_a_second_stop_may_shorten_the_grace(place: Any) -> None:
    """An operator who loses patience need not wait for the first one's."""
    await place.started("a-1", "stubborn")
    patient = asyncio.create_task(place.runtime.stop("a-1", 50))
    await asyncio.sleep(0)
    assert (await place.runtime.stop("a-1", 0)).exit_code == 137
    assert (await patient).exit_code == 137


async def test_stopping_is_idempotent(place: Any) -> None:
    """Of one that is over, or unknown, it changes nothing."""
    await place.started("a-1", "exit", "4")
    ended = await place.runtime.wait("a-1")
    assert await place.runtime.stop("a-1", 5) == ended
    assert (await place.runtime.stop("a-2", 5)).state is RunState.ABSENT


async def test_a_created_attempt_that_was_stopped_never_runs(place: Any) -> None:
    """A start that comes late, from a dispatcher that does not know, finds it sealed."""
    await place.runtime.create(place.spec("a-1", "exit", "0"))
    sealed = await place.runtime.stop("a-1", 5)
    assert (sealed.state, sealed.started_at, sealed.reason) == (RunState.EXITED, "", EndReason.STOPPED)
    assert (await (await place.successor()).start("a-1")) == sealed
    assert place.runs("a-1") == 0


async def test_another_dispatcher_adopts_what_runs(place: Any) -> None:
    """It finds it by list, waits for it, reads what it wrote, and stops it."""
    started = await place.started("a-1", "polite")
    other = await place.successor()
    assert [seen.started_at for seen in await other.list()] == [started.started_at]
    waiting = asyncio.create_task(other.wait("a-1"))
    assert "ready" in await other.last_lines("a-1")
    ended = await other.stop("a-1", 10)
    assert (await waiting) == ended
    assert ended.exit_code == 5


async def test_waiting_can_be_given_up_without_harm(place: Any) -> None:
    """A dispatcher that shuts down cancels its waits; the agent goes on, and can be waited for again."""
    await place.started("a-1", "polite")
    waiting = asyncio.create_task(place.runtime.wait("a-1"))
    await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (await place.runtime.inspect("a-1")).alive
    again = asyncio.create_task(place.runtime.wait("a-1"))
    await place.runtime.stop("a-1", 10)
    assert (await again).exit_code == 5


async def test_one_that_is_gone_without_a_record_is_lost_for_good(place: Any) -> None:
    """LOST, after nothing of it is alive, and no start brings it back: the next attempt is another one."""
    await place.started("a-1", "wait")
    waiting = asyncio.create_task(place.runtime.wait("a-1"))
    await asyncio.sleep(0)
    await place.lose("a-1")
    assert (await waiting).state is RunState.LOST
    assert (await place.runtime.start("a-1")).state is RunState.LOST
    assert (await place.runtime.stop("a-1", 1)).state is RunState.LOST
    assert place.runs("a-1") == 1


async def test_the_last_lines_are_whole_capped_and_harmless(place: Any) -> None:
    """At most 4 KiB from the start of a line; no control character reaches a terminal or a log."""
    noise = "".join(f"line {number}\n" for number in range(2000))
    await place.started("a-1", "say", noise + "\x1b[31mred\x07 \u202eback é\r\n\ttab\n")
    await place.runtime.wait("a-1")
    text = await place.runtime.last_lines("a-1")
    assert len(text.encode()) <= 4096
    assert text.splitlines()[0].startswith("line ")
    assert text.endswith("\nline 1999\n\\x1b[31mred\\x07 \\u202eback é\n\ttab")


async def test_an_agent_may_write_without_end_and_its_last_words_are_kept(place: Any) -> None:
    """Ten megabytes and then the reason: the reason is what counts."""
    await place.started("a-1", "flood", str(10 << 20))
    assert (await place.runtime.wait("a-1")).exit_code == 0
    text = await place.runtime.last_lines("a-1")
    assert text.splitlines()[-1] == "the end"
    assert len(text.encode()) <= 4096


async def test_nothing_is_known_of_the_unknown(place: Any) -> None:
    """No errors either: whoever sweeps asks about things that others removed."""
    assert await place.runtime.last_lines("a-1") == ""
    assert await place.runtime.last_output_at("a-1") == ""
    assert (await place.runtime.wait("a-1")).state is RunState.ABSENT
    await place.runtime.remove("a-1")


async def test_a_silent_agent_can_be_told_from_a_busy_one(place: Any) -> None:
    """last_output_at begins with the start, moves with every output, and stands still in silence."""
    await place.runtime.create(place.spec("a-1", "tick"))
    assert await place.runtime.last_output_at("a-1") == ""
    started = await place.runtime.start("a-1")
    first = await place.runtime.last_output_at("a-1")
    # The kernel stamps files by its coarse clock, a few milliseconds behind.
    assert first[:19] >= started.started_at[:19]
    for _ in range(3):
        before = await place.runtime.last_output_at("a-1")

        async def moved(before: str = before) -> bool:
            return bool(await place.runtime.last_output_at("a-1") > before)

        await place.until(moved)
    await place.started("a-2", "fall silent")
    silent = await place.runtime.last_output_at("a-2")
    now = await place.runtime.last_output_at("a-1")

    async def busy_one_moved() -> bool:
        return bool(await place.runtime.last_output_at("a-1") > now)

    await place.until(busy_one_moved)
    assert await place.runtime.last_output_at("a-2") == silent


async def test_removing_forgets_an_attempt_but_not_its_mailbox(place: Any) -> None:
    """The mailbox is the gateway's, the group's folder is the group's."""
    await place.started("a-1", "exit", "0")
    await place.runtime.wait("a-1")
    await place.runtime.create(place.spec("a-2", "wait"))
    await place.runtime.remove("a-1")
    await place.runtime.remove("a-2")
    await place.runtime.remove("a-1")
    assert await place.runtime.list() == []
    assert (await place.runtime.inspect("a-1")).state is RunState.ABSENT
    assert (place.home / "attempts" / "a-1" / "ipc").is_dir()


async def test_what_runs_is_not_removed(place: Any) -> None:
    """Stop it first."""
    await place.started("a-1", "wait")
    with pytest.raises(NanoclawError) as caught:
        await place.runtime.remove("a-1")
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "ATTEMPT_ALIVE")
    assert (await place.runtime.inspect("a-1")).alive


async def test_a_runtime_knows_what_is_its_own(place: Any) -> None:
    """From creation to removal: so the runtime that has an attempt adopts it, whatever its group says by then."""
    assert not place.runtime.has("a-1")
    await place.runtime.create(place.spec("a-1", "exit", "0"))
    assert (await place.successor()).has("a-1")
    await place.runtime.start("a-1")
    await place.runtime.wait("a-1")
    assert place.runtime.has("a-1")
    await place.runtime.remove("a-1")
    assert not place.runtime.has("a-1")


async def test_the_list_is_all_there_is(place: Any) -> None:
    """Whatever its state: an orphan that the database does not know is found, stopped and removed by it."""
    await place.started("a-1", "wait")
    await place.started("a-2", "exit", "0")
    await place.runtime.wait("a-2")
    await place.runtime.create(place.spec("a-3", "wait"))
    states = {seen.attempt_id: seen.state for seen in await (await place.successor()).list()}
    assert states == {"a-1": RunState.RUNNING, "a-2": RunState.EXITED, "a-3": RunState.CREATED}
    for attempt_id in states:
        await place.runtime.stop(attempt_id, 0)
        await place.runtime.remove(attempt_id)
    assert await place.runtime.list() == []


async def test_closing_lets_agents_go_on(place: Any) -> None:
    """A dispatcher that is restarted interrupts nobody."""
    await place.started("a-1", "tick")
    other = await place.successor()
    await place.runtime.close()
    before = await other.last_output_at("a-1")

    async def moved() -> bool:
        return bool(await other.last_output_at("a-1") > before)

    await place.until(moved)
    place.runtime = other
