"""Units of work: one writer, a savepoint each, one COMMIT for all that are queued, answers after it."""

import asyncio
import gc
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nanoclaw_core.errors import NanoclawError


async def test_what_was_answered_is_on_the_disk(database, pantry):
    """An answer comes after COMMIT: a stranger's connection sees the row at once."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    assert pantry.jars_on_disk() == ["a"]


async def test_a_unit_answers_its_value_and_rows_have_names(database, pantry):
    """write() and read() hand back what the unit returns; rows are read by name and by place."""
    await database.write(lambda tx: pantry.new_jar(tx, "a", note="käse ☃"))
    row = await database.write(lambda tx: tx.one(pantry.get, jar="a"))
    assert (row["note"], row[0]) == ("käse ☃", "a")
    assert database.read(lambda tx: tx.one(pantry.get, jar="nobody")) is database.one(pantry.get, jar="nobody") is None
    assert database.read(lambda tx: tx.one(pantry.count)[0]) == 1


async def test_run_counts_the_rows_it_changed(database, pantry):
    """A compare-and-set that hits nothing says so."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    assert await database.write(lambda tx: (tx.run(pantry.put_bean, jar="a"), tx.run(pantry.put_bean, jar="b"))) == (
        1,
        0,
    )


async def test_a_refusal_leaves_nothing_of_its_unit(database, pantry):
    """A unit that raises is rolled back whole, and its caller gets its very exception."""
    refusal = ValueError("no")

    def refuse(tx):
        pantry.new_jar(tx, "a")
        raise refusal

    with pytest.raises(ValueError) as caught:
        await database.write(refuse)
    assert caught.value is refusal
    assert pantry.jars_on_disk() == []


async def test_neighbours_of_a_refusal_in_the_same_batch_stand(database, pantry, in_one_batch):
    """A savepoint each: the middle one of three leaves no trace, the other two are stored, by one COMMIT."""

    def refuse(tx):
        pantry.new_jar(tx, "b")
        raise ValueError("no")

    commits = database.commits
    first, second, third = await in_one_batch(
        database, lambda tx: pantry.new_jar(tx, "a"), refuse, lambda tx: pantry.new_jar(tx, "c")
    )
    assert isinstance(second, ValueError)
    assert (first.seq, third.seq) == (1, 2)
    assert pantry.jars_on_disk() == ["a", "c"]
    assert database.commits == commits + 1


async def test_a_failing_statement_of_a_unit_does_not_spoil_the_batch(database, pantry, in_one_batch):
    """A constraint that SQLite holds is a refusal like any other."""
    results = await in_one_batch(
        database,
        lambda tx: pantry.new_jar(tx, "a"),
        lambda tx: pantry.new_jar(tx, "a"),
        lambda tx: pantry.new_jar(tx, "b"),
    )
    assert [type(result).__name__ for result in results] == ["Head", "IntegrityError", "Head"]
    assert pantry.jars_on_disk() == ["a", "b"]


async def test_refusals_too_are_answered_after_the_commit(open_database, pantry, faults, in_one_batch):
    """A refusal may rest on what a neighbour has just written, so it is not told before that is durable."""
    database = await open_database(connect=faults.connect)

    def refuse(tx):
        assert tx.one(pantry.get, jar="a") is not None
        raise ValueError("there is one already")

    told: list[int] = []
    original = database._tell
    database._tell = lambda *args: (told.append(faults.statements.count("COMMIT")), original(*args))
    commits = faults.statements.count("COMMIT")
    _, refusal = await in_one_batch(database, lambda tx: pantry.new_jar(tx, "a"), refuse)
    assert isinstance(refusal, ValueError)
    assert told[-1] == commits + 2  # the gate's batch, then this one


async def test_what_is_queued_is_committed_together_and_answered_by_one_call(
    database, pantry, in_one_batch, monkeypatch
):
    """Fifty units cost one COMMIT and wake the loop once."""
    calls: list[Any] = []
    loop = asyncio.get_running_loop()
    original = loop.call_soon_threadsafe
    monkeypatch.setattr(database, "_loop", _Spy(loop, calls, original))
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    commits = database.commits
    calls.clear()
    results = await in_one_batch(database, *[pantry.bean] * 50)
    assert results == list(range(1, 51))
    assert database.commits == commits + 1
    assert len(calls) == 2  # the gate's own batch, then the fifty


class _Spy:
    def __init__(self, loop, calls, original):
        self._loop, self._calls, self._original = loop, calls, original

    def call_soon_threadsafe(self, *args):
        self._calls.append(args)
        return self._original(*args)

    def __getattr__(self, name):
        return getattr(self._loop, name)


async def test_who_comes_while_another_service_writes_shares_the_next_commit(open_database, pantry, faults):
    """Waiting for the lock takes its time anyway; what is queued meanwhile needs no COMMIT of its own."""
    database = await open_database(connect=faults.connect)
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    commits, begun = database.commits, faults.statements.count("BEGIN IMMEDIATE")
    other = pantry.peek()
    other.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(database.write(pantry.bean))]
    while faults.statements.count("BEGIN IMMEDIATE") == begun:
        await asyncio.sleep(0)
    waiting += [asyncio.create_task(database.write(pantry.bean)) for _ in range(20)]
    await asyncio.sleep(0)
    other.execute("ROLLBACK")
    other.close()
    assert await asyncio.gather(*waiting) == list(range(1, 22))
    assert database.commits == commits + 1


async def test_a_batch_has_a_bound(open_database, pantry, in_one_batch):
    """A transaction stays short however long the queue is."""
    database = await open_database(batch=8)
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    commits = database.commits
    assert await in_one_batch(database, *[pantry.bean] * 20) == list(range(1, 21))
    assert database.commits == commits + 3


async def test_sixty_four_writers_lose_no_update(database, pantry):
    """Read, add one, write: every bean counts, whatever the concurrency, and the log has a row for each."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))

    async def write() -> list[int]:
        return [await database.write(pantry.bean) for _ in range(10)]

    answers = await asyncio.gather(*(write() for _ in range(64)))
    assert sorted(bean for each in answers for bean in each) == list(range(1, 641))
    assert database.read(pantry.log.head).seq == 641


async def test_two_processes_worth_of_writers_share_the_file(open_database, pantry):
    """Two Databases on one file, as two services have: both write, neither loses, nobody is told STORE_BUSY."""
    one, other = await open_database(), await open_database()
    await one.write(lambda tx: pantry.new_jar(tx, "a"))

    async def write(database) -> None:
        for _ in range(20):
            await database.write(pantry.bean)

    await asyncio.gather(*(write(database) for database in (one, other) for _ in range(4)))
    assert one.read(lambda tx: tx.one(pantry.get, jar="a"))["beans"] == 160


async def test_a_cancelled_caller_does_not_undo_its_unit(database, pantry, gate):
    """A unit that was queued runs, commits and harms nobody, whether its caller still waits or not."""
    held = asyncio.ensure_future(database.write(gate.unit))
    await asyncio.to_thread(gate.entered.wait, 30)
    doomed = [asyncio.ensure_future(database.write(lambda tx, jar=jar: pantry.new_jar(tx, jar))) for jar in "ab"]
    kept = asyncio.ensure_future(database.write(lambda tx: pantry.new_jar(tx, "c")))
    await asyncio.sleep(0)
    for task in doomed:
        task.cancel()
    gate.opened.set()
    await held
    assert (await kept).seq == 3
    assert all(task.cancelled() for task in doomed)
    assert pantry.jars_on_disk() == ["a", "b", "c"]


async def test_a_cancelled_caller_of_a_refusal_leaves_no_noise(database, gate):
    """Nobody retrieves the refusal; that is no error of the loop either."""
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))

    def refuse(tx):
        raise ValueError("no")

    task = asyncio.ensure_future(database.write(refuse))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.write(lambda tx: None)
    del task
    gc.collect()
    assert noise == []


async def test_a_caller_cancelled_just_as_its_refusal_arrives_leaves_no_noise(database):
    """The future is done and its task cancelled before it could look: nobody will, and that is no error."""
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))

    def refuse(tx):
        raise ValueError("no")

    tasks = [asyncio.ensure_future(database.write(refuse))]
    tell = database._tell
    database._tell = lambda *args: (tell(*args), tasks[0].cancel())
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    tasks.clear()
    gc.collect()
    assert noise == []


async def test_who_stops_waiting_for_a_commit_takes_nobody_along(database, pantry):
    """Streams come and go; the others are still woken."""
    waiters = [asyncio.ensure_future(database.wait_commit(database.commits)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[1].cancel()
    await asyncio.sleep(0)
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    assert await asyncio.gather(waiters[0], waiters[2]) == [database.commits] * 2


async def test_now_is_frozen_within_a_unit_and_moves_between_units(open_database, pantry):
    """All that a unit writes carries one moment."""
    moments = iter(datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=second) for second in range(100))
    database = await open_database(clock=lambda: next(moments))
    first = await database.write(lambda tx: (tx.now, tx.now))
    second = await database.write(lambda tx: (tx.now, tx.now))
    assert len(set(first)) == len(set(second)) == 1
    assert first < second
    assert len(first[0]) == 27


async def test_a_tx_is_of_no_use_after_its_unit(database, pantry):
    """A leaked view can't write outside of a transaction."""
    leaked = []
    await database.write(leaked.append)
    with pytest.raises(RuntimeError, match="has ended"):
        leaked[0].run(pantry.put_bean, jar="a")
    database.read(leaked.append)
    with pytest.raises(RuntimeError, match="has ended"):
        leaked[1].one(pantry.count)


async def test_units_run_on_one_thread_that_is_not_the_loops(database):
    """A single writer, beside the event loop."""
    threads = {await database.write(lambda tx: threading.get_ident()) for _ in range(5)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


async def test_a_unit_may_raise_what_futures_refuse(database):
    """StopIteration can't travel in a future; the caller gets an error, and the writer lives on."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await database.write(lambda tx: next(iter(())))
    assert await database.write(lambda tx: 7) == 7


async def test_a_commit_wakes_who_waits_for_one(database, pantry):
    """wait_commit returns once something was changed, with a number to wait from; reads and refusals wake nobody."""
    seen = database.commits
    waiter = asyncio.ensure_future(database.wait_commit(seen))
    await database.write(lambda tx: tx.one(pantry.count))

    def refuse(tx):
        pantry.new_jar(tx, "a")
        raise ValueError("no")

    with pytest.raises(ValueError):
        await database.write(refuse)
    assert not waiter.done()
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    assert await waiter == seen + 1 == database.commits
    assert await database.wait_commit(seen) == seen + 1


async def test_close_does_what_is_queued_and_then_refuses(open_database, pantry, gate):
    """A drain: nothing accepted is dropped, nothing is accepted afterwards, waiting streams end."""
    database = await open_database()
    held = asyncio.ensure_future(database.write(gate.unit))
    await asyncio.to_thread(gate.entered.wait, 30)
    queued = asyncio.ensure_future(database.write(lambda tx: pantry.new_jar(tx, "a")))
    stream = asyncio.ensure_future(database.wait_commit(10**6))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(database.close())
    while database._writer._queue.qsize() < 2:  # the unit, and the end
        await asyncio.sleep(0.001)
    gate.opened.set()
    await asyncio.gather(held, closing)
    assert (await queued).seq == 1
    for refused in (stream, database.write(lambda tx: 1), database.read_in_thread(lambda tx: 1)):
        with pytest.raises(NanoclawError, match="STORE_CLOSED"):
            await refused
    with pytest.raises(NanoclawError, match="STORE_CLOSED"):
        database.read(lambda tx: 1)
    await database.close()
    assert pantry.jars_on_disk() == ["a"]


async def test_a_closed_database_is_one_file(open_database, pantry):
    """The last service to close leaves no WAL behind, so the file alone is a whole copy."""
    database = await open_database()
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    await database.read_in_thread(lambda tx: tx.one(pantry.count))
    await database.close()
    assert [path.name for path in pantry.path.parent.iterdir()] == [pantry.path.name]


async def test_a_read_sees_one_moment(database, open_database, pantry):
    """A query's statements all see the same snapshot, though somebody commits between them."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    between, written = threading.Event(), threading.Event()

    def count_twice(tx):
        first = tx.one(pantry.count)[0]
        between.set()
        assert written.wait(30)
        return first, tx.one(pantry.count)[0]

    reading = asyncio.ensure_future(database.read_in_thread(count_twice))
    await asyncio.to_thread(between.wait, 30)
    await database.write(lambda tx: pantry.new_jar(tx, "b"))
    written.set()
    assert await reading == (1, 1)
    assert database.read(lambda tx: tx.one(pantry.count)[0]) == 2


async def test_a_failing_read_leaves_the_connection_fit_for_the_next(database, pantry):
    """A query's exception ends its snapshot."""
    with pytest.raises(ZeroDivisionError):
        database.read(lambda tx: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await database.read_in_thread(lambda tx: 1 // 0)
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    assert database.read(lambda tx: tx.one(pantry.count)[0]) == 1
