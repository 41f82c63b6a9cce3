"""Dispatches on disk: every change of state that the tables know, and none that they don't, in row and log alike."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import attempts, dispatches, leases, listing, tables
from nanoclaw_dispatcher.dispatch import Rule, Start
from nanoclaw_dispatcher.ending import Outcome, Settlement
from nanoclaw_dispatcher.lifecycle import ATTEMPT_TRANSITIONS, LIVE, TRANSITIONS, AttemptState, Code, DispatchState
from nanoclaw_dispatcher.task import Task, TaskState
from nanoclaw_store import Database, Tx
from nanoclaw_store.testing import invariants

START = Start("t:READY->DOING:v1", Rule.EXECUTE, "developer", 1, TaskState.READY, TaskState.DOING)
OTHER = Start("t:DOING:v2", Rule.RESUME, "developer", 1, TaskState.DOING, None)
TASK = Task("t", 1, TaskState.READY)
ENDS = [state for state in AttemptState if state not in LIVE]
PATHS: dict[DispatchState, list[Any]] = {
    DispatchState.ENQUEUED: [],
    DispatchState.STARTED: ["start"],
    **{state: ["start", state] for state in (DispatchState.DONE, DispatchState.FAILED, DispatchState.CANCELLED)},
}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """The slice; what is written must verify in the end."""
    database = await Database.open(tmp_path / "nanoclaw.db", tables.SLICE)
    yield database
    await database.close()
    invariants(tmp_path / "nanoclaw.db")


def settlement(dispatch: DispatchState, attempt: AttemptState = AttemptState.FAILED) -> Settlement:
    return Settlement(attempt, Outcome.EXITED, dispatch, 0)


async def bring(database: Database, state: DispatchState, name: str = "d", start: Start = START) -> str:
    """A dispatch in that state; answers its attempt."""

    def unit(tx: Tx) -> str:
        attempt = str(dispatches.enqueue(tx, name, start, TASK, instance="i").attempt["id"])
        for step in PATHS[state]:
            if step == "start":
                dispatches.started(tx, attempt, "/box", "", instance="i")
            else:
                dispatches.ended(tx, attempt, settlement(step), 0, "", 1, instance="i")
        return attempt

    return await database.write(unit)


def row(database: Database, name: str = "d") -> Any:
    return database.read(lambda tx: tx.one(dispatches.BY_ID, id=name))


@pytest.mark.parametrize("target", [state for state in DispatchState if state is not DispatchState.STARTED])
@pytest.mark.parametrize("state", DispatchState)
async def test_a_dispatch_changes_as_its_table_says(
    database: Database, state: DispatchState, target: DispatchState
) -> None:
    """Every pair; what is refused leaves row and log as they were."""
    attempt = await bring(database, state)
    if state is DispatchState.ENQUEUED and target is state:
        return  # no change

    def unit(tx: Tx) -> None:
        if target is DispatchState.ENQUEUED and state is not DispatchState.STARTED:
            dispatches.reopen(tx, listing.find(tx, "d").dispatch, principal="operator:ana", via="", request_ref="r")
        else:
            dispatches.ended(tx, attempt, settlement(target), 0, "", 1, instance="i")

    before, head = dict(row(database)), database.read(tables.LOG.head)
    if target in TRANSITIONS[state]:
        await database.write(unit)
        assert row(database)["state"] == target
        assert database.read(tables.LOG.head).seq == head.seq + 1
        return
    with pytest.raises(NanoclawError) as refused:
        await database.write(unit)
    assert (refused.value.kind, refused.value.reason) == (Kind.CONFLICT, "DISPATCH_CHANGED")
    assert dict(row(database)) == before
    assert database.read(tables.LOG.head) == head


@pytest.mark.parametrize("target", ENDS)
@pytest.mark.parametrize("state", AttemptState)
async def test_an_attempt_ends_once(database: Database, state: AttemptState, target: AttemptState) -> None:
    """From each live state into each end, and from no end into another; nor does it start again."""
    attempt = await bring(database, DispatchState.ENQUEUED if state is AttemptState.ENQUEUED else DispatchState.STARTED)
    if state in ENDS:
        await database.write(
            lambda tx: dispatches.ended(tx, attempt, settlement(DispatchState.ENQUEUED, state), 0, "", 1, instance="i")
        )

    def unit(tx: Tx) -> str:
        return dispatches.ended(tx, attempt, settlement(DispatchState.FAILED, target), 3, "bye", 9, instance="i")

    if target in ATTEMPT_TRANSITIONS[state]:
        assert await database.write(unit) == "fail"
        (one,) = database.read(lambda tx: listing.find(tx, "d")).attempts
        assert (one["state"], one["exit_code"], one["last_lines"]) == (target, 3, "bye")
        assert row(database)["seen_version"] == 9
        return
    with pytest.raises(NanoclawError, match="can't become"):
        await database.write(unit)
    with pytest.raises(NanoclawError, match="can't become STARTED"):
        await database.write(lambda tx: dispatches.started(tx, attempt, "/box", "", instance="i"))


async def test_a_key_is_dispatched_once(database: Database) -> None:
    """Whatever was decided: the second insert of a key gets nothing, and writes nothing."""
    await bring(database, DispatchState.DONE)
    head = database.read(tables.LOG.head)
    with pytest.raises(sqlite3.IntegrityError, match="dispatch_key"):
        await bring(database, DispatchState.ENQUEUED, "e")
    assert database.read(tables.LOG.head) == head
    assert row(database, "e") is None


@pytest.mark.parametrize("state", [DispatchState.DONE, DispatchState.FAILED, DispatchState.CANCELLED])
async def test_what_is_closed_gets_no_further_attempt(database: Database, state: DispatchState) -> None:
    """It has to be opened again first, by a person."""
    await bring(database, state)
    with pytest.raises(NanoclawError) as refused:
        await database.write(lambda tx: dispatches.next_attempt(tx, "d", instance="i"))
    assert refused.value.reason == "DISPATCH_CHANGED"
    assert row(database)["attempts"] == 1


async def test_a_further_attempt_needs_that_none_of_its_group_is_alive(database: Database) -> None:
    """Of whatever dispatch of that task; each gets the next number and a higher fence."""
    first = await bring(database, DispatchState.STARTED)

    def again(tx: Tx) -> Any:
        return dispatches.next_attempt(tx, "d", instance="i").attempt

    with pytest.raises(NanoclawError) as refused:
        await database.write(again)
    assert refused.value.reason == "DISPATCH_CHANGED"
    await database.write(
        lambda tx: dispatches.ended(tx, first, settlement(DispatchState.ENQUEUED), 1, "", 1, instance="i")
    )
    other = await bring(database, DispatchState.ENQUEUED, "e", OTHER)
    with pytest.raises(NanoclawError) as refused:
        await database.write(again)
    assert refused.value.reason == "DISPATCH_CHANGED"
    await database.write(
        lambda tx: dispatches.ended(tx, other, settlement(DispatchState.FAILED), 1, "", 1, instance="i")
    )
    second = await database.write(again)
    assert (second["number"], second["fence"], row(database)["attempts"]) == (2, 3, 2)
    assert second["id"] == first[:-1] + "2"


async def test_what_is_known_of_the_task_never_grows_older(database: Database) -> None:
    """seen_version only rises: an old reading must not be decided upon as if it were new."""
    await bring(database, DispatchState.STARTED)
    for version, seen in ((5, 5), (3, 5), (0, 5), (6, 6)):

        def unit(tx: Tx, version: int = version) -> None:
            live = (
                tx.one(attempts.LIVE_OF_DISPATCH, dispatch="d")
                or dispatches.next_attempt(tx, "d", instance="i").attempt
            )
            dispatches.ended(tx, live["id"], settlement(DispatchState.ENQUEUED), 1, "", version, instance="i")

        await database.write(unit)
        assert row(database)["seen_version"] == seen


async def test_only_what_waits_is_closed_without_an_attempt(database: Database) -> None:
    """What runs is stopped first; what is closed stays as it is."""
    for state in DispatchState:
        start = Start(f"{state}", Rule.EXECUTE, str(state).lower(), 1, TaskState.READY, TaskState.DOING)
        await bring(database, state, str(state), start)
        closed = await database.write(
            lambda tx, state=state: dispatches.close_waiting(tx, str(state), Code.WITHDRAWN, "gone", 4, instance="i")
        )
        assert not closed, "it has a live attempt, or is closed"
        assert row(database, str(state))["state"] == state
    attempt = database.read(lambda tx: listing.find(tx, "ENQUEUED")).attempts[0]["id"]
    await database.write(
        lambda tx: dispatches.ended(tx, attempt, settlement(DispatchState.ENQUEUED), 1, "", 1, instance="i")
    )
    assert await database.write(
        lambda tx: dispatches.close_waiting(tx, "ENQUEUED", Code.WITHDRAWN, "gone", 4, instance="i")
    )
    told = row(database, "ENQUEUED")
    assert (told["state"], told["code"], told["reason"], told["seen_version"]) == ("CANCELLED", "WITHDRAWN", "gone", 4)


async def test_a_lease_is_held_by_one(database: Database) -> None:
    """Whoever lost it can't write under it; a lapsed one that nobody took is still its owner's."""
    await bring(database, DispatchState.ENQUEUED)
    await database.write(lambda tx: leases.take(tx, "d", owner="a", seconds=-1))
    await database.write(lambda tx: leases.hold(tx, "d", "a"))
    with pytest.raises(leases.LeaseLost):
        await database.write(lambda tx: leases.hold(tx, "d", "b"))
    assert await database.write(lambda tx: leases.adopt(tx, "b", 60, lambda _: True)) == ["d"]
    with pytest.raises(leases.LeaseLost):
        await database.write(lambda tx: leases.hold(tx, "d", "a"))
    assert await database.write(lambda tx: leases.adopt(tx, "a", 60, lambda _: True)) == []
    assert await database.write(lambda tx: leases.adopt(tx, "a", 60, lambda owner: owner != "b")) == ["d"]
    assert await database.write(lambda tx: leases.renew(tx, "a", 60)) == {"d"}
    await database.write(lambda tx: leases.release_all(tx, "a"))
    with pytest.raises(leases.LeaseLost):
        await database.write(lambda tx: leases.hold(tx, "d", "a"))
    assert await database.write(lambda tx: leases.adopt(tx, "b", 60, lambda _: True)) == ["d"]
