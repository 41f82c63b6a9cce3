"""When SQLite or the disk fails: nobody is ever told the opposite of the truth."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from functools import partial

import pytest
from sqlalchemy import func, select

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store import Head, prepare


def _spring(pantry, how="ROLLBACK"):
    """A unit that writes, then runs into a real trigger that ends the whole transaction."""

    def unit(tx):
        pantry.new_jar(tx, "trapped")
        tx.run(pantry.trap, how=how)

    return unit


async def test_a_transaction_that_sqlite_ends_takes_no_neighbour_along(open_database, pantry, faults, in_one_batch):
    """RAISE(ROLLBACK) undoes the batch under its neighbours: each runs once more, alone, and only the culprit fails."""
    database = await open_database(connect=faults.connect)
    opened = faults.opened
    first, culprit, third = await in_one_batch(
        database, lambda tx: pantry.new_jar(tx, "a"), _spring(pantry), lambda tx: pantry.new_jar(tx, "b")
    )
    assert isinstance(culprit, sqlite3.IntegrityError)
    assert (first.seq, third.seq) == (1, 2)
    assert pantry.jars_on_disk() == ["a", "b"]
    assert faults.opened > opened, "the connection was opened anew"


async def test_a_unit_that_swallows_the_end_of_its_transaction_is_not_confirmed(database, pantry, in_one_batch):
    """It returns happily, but nothing of it is stored: its caller must hear so."""

    def swallow(tx):
        pantry.new_jar(tx, "trapped")
        try:
            tx.run(pantry.trap, how="ROLLBACK")
        except sqlite3.IntegrityError:
            return "fine"

    first, swallowed = await in_one_batch(database, lambda tx: pantry.new_jar(tx, "a"), swallow)
    assert first.seq == 1
    assert isinstance(swallowed, sqlite3.IntegrityError)
    assert pantry.jars_on_disk() == ["a"]


async def test_a_unit_can_not_go_on_once_its_transaction_has_ended(database, pantry):
    """The next statement would commit on its own, and the unit's second run would repeat it."""

    def go_on(tx):
        try:
            tx.run(pantry.trap, how="ROLLBACK")
        except sqlite3.IntegrityError:
            pantry.new_jar(tx, "outside")

    with pytest.raises(RuntimeError, match="has ended"):
        await database.write(go_on)
    assert pantry.jars_on_disk() == []


@pytest.mark.parametrize("statement", ["SAVEPOINT", "RELEASE", "ROLLBACK TO"])
async def test_a_failing_savepoint_loses_and_confirms_nothing(open_database, pantry, faults, in_one_batch, statement):
    """Without savepoints units can't be told apart: the batch is given up and each runs alone."""

    def refuse(tx):
        pantry.new_jar(tx, "b")
        raise ValueError("no")

    database = await open_database(connect=faults.connect)
    await database.write(lambda tx: None)
    faults.plan(statement, sqlite3.SQLITE_NOMEM)
    first, second, third = await in_one_batch(
        database, lambda tx: pantry.new_jar(tx, "a"), refuse, lambda tx: pantry.new_jar(tx, "c")
    )
    assert (first.seq, type(second), third.seq) == (1, ValueError, 2)
    assert pantry.jars_on_disk() == ["a", "c"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY])
async def test_a_commit_that_fails_is_tried_once_more_alone(open_database, pantry, faults, in_one_batch, code):
    """The batch's COMMIT fails, each unit's own passes: all are stored, once, and told so."""
    database = await open_database(connect=faults.connect)
    units = [lambda tx, jar=jar: pantry.new_jar(tx, jar) for jar in "abc"]
    await database.write(lambda tx: None)
    faults.plan("COMMIT", code, after=1)  # the gate's own passes
    results = await in_one_batch(database, *units)
    assert [head.seq for head in results] == [1, 2, 3]
    assert pantry.jars_on_disk() == ["a", "b", "c"]
    assert faults.deaths == []


@pytest.mark.parametrize(("code", "reason"), [(sqlite3.SQLITE_FULL, "STORE_FULL"), (sqlite3.SQLITE_BUSY, "STORE_BUSY")])
async def test_a_commit_that_keeps_failing_is_told_as_not_stored(open_database, pantry, faults, code, reason):
    """UNAVAILABLE with its reason, nothing on the disk; once the fault is gone the same request passes."""
    database = await open_database(connect=faults.connect)
    faults.plan("COMMIT", code, times=2)
    with pytest.raises(NanoclawError) as caught:
        await database.write(lambda tx: pantry.new_jar(tx, "a"))
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, reason)
    assert pantry.jars_on_disk() == []
    assert (await database.write(lambda tx: pantry.new_jar(tx, "a"))).seq == 1
    assert pantry.jars_on_disk() == ["a"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_PROTOCOL, 0])
@pytest.mark.parametrize("done", [False, True])
async def test_a_commit_of_unknown_outcome_kills_without_a_word(open_database, pantry, faults, code, done):
    """It may or may not be on the disk (both are played), so neither yes nor no is true: the process dies."""
    database = await open_database(connect=faults.connect, die=faults.die)
    faults.plan("COMMIT", code, done=done)
    answer = asyncio.ensure_future(database.write(lambda tx: pantry.new_jar(tx, "a")))
    assert await asyncio.to_thread(faults.died.wait, 30)
    await asyncio.to_thread(database._writer.join)
    await asyncio.sleep(0)
    assert not answer.done()
    answer.cancel()
    assert len(faults.deaths) == 1
    assert pantry.jars_on_disk() == (["a"] if done else [])


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "SAVEPOINT", "INSERT INTO jars", "RELEASE", "COMMIT"])
async def test_an_io_error_or_corruption_confirms_nobody_and_kills(
    open_database, pantry, faults, in_one_batch, code, statement
):
    """Wherever it strikes: die is called, none of the batch is answered, the next unit is not begun."""
    database = await open_database(connect=faults.connect, die=faults.die)
    await database.write(lambda tx: None)
    faults.plan(statement, code)
    answers = [asyncio.ensure_future(database.write(lambda tx, jar=jar: pantry.new_jar(tx, jar))) for jar in "ab"]
    assert await asyncio.to_thread(faults.died.wait, 30)
    await asyncio.to_thread(database._writer.join)
    await asyncio.sleep(0)
    assert not any(answer.done() for answer in answers)
    for answer in answers:
        answer.cancel()
    assert len(faults.deaths) == 1
    assert pantry.jars_on_disk() == []


async def test_an_io_error_that_a_unit_swallows_or_renames_still_kills(open_database, pantry, faults):
    """A unit does not decide whether the disk is trustworthy."""

    def rename(tx):
        try:
            pantry.new_jar(tx, "a")
        except sqlite3.OperationalError:
            raise NanoclawError(Kind.INVALID, "SOMETHING_ELSE", "never mind") from None

    database = await open_database(connect=faults.connect, die=faults.die)
    faults.plan("INSERT INTO jars", sqlite3.SQLITE_IOERR)
    answer = asyncio.ensure_future(database.write(rename))
    assert await asyncio.to_thread(faults.died.wait, 30)
    assert not answer.done()
    answer.cancel()


@pytest.mark.parametrize("where", ["read", "read_in_thread", "one"])
async def test_a_read_that_finds_corruption_kills_too(open_database, pantry, faults, where):
    """What the reader sees rotten the writer would build upon."""
    database = await open_database(connect=faults.connect, die=faults.die)
    faults.plan("SELECT count", sqlite3.SQLITE_CORRUPT)
    with pytest.raises(sqlite3.OperationalError):
        await getattr(database, where)(pantry.count if where == "one" else lambda tx: tx.one(pantry.count))
    assert len(faults.deaths) == 1


async def test_a_defect_in_the_writer_kills(open_database, pantry, faults, monkeypatch):
    """A thread that died in silence would leave every caller waiting for ever."""
    database = await open_database(die=faults.die)
    monkeypatch.setattr(database._writer, "_together", lambda jobs: 1 // 0)
    answer = asyncio.ensure_future(database.write(lambda tx: pantry.new_jar(tx, "a")))
    assert await asyncio.to_thread(faults.died.wait, 30)
    answer.cancel()


async def test_a_store_that_another_process_holds_is_told_as_busy(open_database, pantry, in_one_batch):
    """No transaction could begin: UNAVAILABLE STORE_BUSY to each, after busy_seconds once, not once per unit."""
    database = await open_database(busy_seconds=0.05)
    stranger = pantry.peek()
    stranger.execute("BEGIN IMMEDIATE")
    try:
        answers = await asyncio.gather(
            *(database.write(lambda tx, jar=jar: pantry.new_jar(tx, jar)) for jar in "abc"), return_exceptions=True
        )
    finally:
        stranger.execute("ROLLBACK")
        stranger.close()
    assert [(answer.kind, answer.reason) for answer in answers] == [(Kind.UNAVAILABLE, "STORE_BUSY")] * 3
    assert (await database.write(lambda tx: pantry.new_jar(tx, "a"))).seq == 1


async def test_a_short_lock_of_another_process_is_waited_for(open_database, pantry, faults):
    """The writer tries again until the other is done."""
    database = await open_database(connect=faults.connect)
    stranger = sqlite3.connect(pantry.path, isolation_level=None, check_same_thread=False)
    stranger.execute("BEGIN IMMEDIATE")
    answer = asyncio.ensure_future(database.write(lambda tx: pantry.new_jar(tx, "a")))
    deadline = asyncio.get_running_loop().time() + 30
    while faults.statements.count("BEGIN IMMEDIATE") < 2 and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.001)
    assert not answer.done()
    stranger.execute("ROLLBACK")
    stranger.close()
    assert (await answer).seq == 1


async def test_a_connection_that_can_not_be_opened_again_is_told_as_not_stored(open_database, pantry, faults):
    """The writer lives on, and opens one for the next unit."""
    database = await open_database(connect=faults.connect)
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(_spring(pantry))
    faults.plan("PRAGMA synchronous", sqlite3.SQLITE_CANTOPEN)
    with pytest.raises(NanoclawError, match="STORE_FAILED"):
        await database.write(lambda tx: pantry.new_jar(tx, "a"))
    assert (await database.write(lambda tx: pantry.new_jar(tx, "a"))).seq == 1


async def test_a_deferred_constraint_fails_its_own_unit_only(database, pantry, in_one_batch):
    """COMMIT refuses the batch; alone, only the unit that broke the constraint fails."""

    def orphan(tx):
        tx.run(pantry.label, jar_id="nobody", number=1, word="salt")

    first, second = await in_one_batch(database, lambda tx: pantry.new_jar(tx, "a"), orphan)
    assert first.seq == 1
    assert isinstance(second, sqlite3.IntegrityError)
    assert pantry.jars_on_disk() == ["a"]


async def test_a_full_database_refuses_the_big_unit_and_keeps_the_small(open_database, pantry, faults, in_one_batch):
    """A real SQLITE_FULL (max_page_count): the big unit is told STORE_FULL, its neighbours are stored."""
    await (await open_database()).close()
    pages = pantry.path.stat().st_size // 4096
    faults.pragmas = [f"PRAGMA max_page_count = {pages + 3}"]
    database = await open_database(connect=faults.connect)
    first, big, third = await in_one_batch(
        database,
        lambda tx: pantry.new_jar(tx, "a"),
        lambda tx: pantry.new_jar(tx, "big", note="x" * 4096 * 50),
        lambda tx: pantry.new_jar(tx, "b"),
    )
    assert (big.kind, big.reason) == (Kind.UNAVAILABLE, "STORE_FULL")
    assert (first.seq, third.seq) == (1, 2)
    assert pantry.jars_on_disk() == ["a", "b"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 512 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_refuses_until_there_is_space_again(open_database, pantry, tiny_disk):
    """A real ENOSPC: who is told yes is on the disk, who is told STORE_FULL is not, and nothing else is told."""
    pantry.path = tiny_disk / "nanoclaw.db"
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"x" * (160 << 10))
    database = await open_database()
    told = {}
    for number in range(60):
        unit = partial(pantry.new_jar, jar=f"jar{number:02}", note="n" * 6000)
        (told[f"jar{number:02}"],) = await asyncio.gather(database.write(unit), return_exceptions=True)
    yes = sorted(jar for jar, answer in told.items() if isinstance(answer, Head))
    no = sorted(jar for jar, answer in told.items() if getattr(answer, "reason", "") == "STORE_FULL")
    assert yes
    assert no
    assert sorted(yes + no) == sorted(told)
    stored = database.read(lambda tx: [row["id"] for row in tx.all(prepare(select(pantry.jars.c.id)))])
    assert sorted(stored) == yes
    ballast.unlink()
    await database.write(lambda tx: pantry.new_jar(tx, "later"))
    await database.close()
    assert pantry.jars_on_disk() == [*yes, "later"]


async def test_a_rotten_file_kills_instead_of_answering(open_database, pantry, faults):
    """Real corruption: the pages of the jars are overwritten under a closed database, and the next unit meets them."""
    database = await open_database()
    await database.write(lambda tx: [pantry.new_jar(tx, f"jar{n}", note="x" * 500) for n in range(200)])
    await database.close()
    with pantry.path.open("r+b") as file:
        size = pantry.path.stat().st_size
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    connection = sqlite3.connect(pantry.path)
    with pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT count(*) FROM jars").fetchall()
    connection.close()
    broken = await _open_without_migrating(open_database, pantry, faults)
    answer = asyncio.ensure_future(broken.write(lambda tx: pantry.new_jar(tx, "a")))
    assert await asyncio.to_thread(faults.died.wait, 30)
    assert not answer.done()
    answer.cancel()


async def _open_without_migrating(open_database, pantry, faults):
    from nanoclaw_store import database as module

    migrate, module.migrate = module.migrate, lambda *args, **options: None
    try:
        return await open_database(die=faults.die)
    finally:
        module.migrate = migrate


_CHILD = """
import asyncio, resource, signal, sys
from pathlib import Path
from sqlalchemy import MetaData
from nanoclaw_store import Database, LogTable, Slice
path, migrations = map(Path, sys.argv[1:3])
log = LogTable("pantry_log", MetaData())
tables = frozenset({"jars", "labels", "traps", "pantry_log", "pantry_requests"})
slice_ = Slice("pantry", tables, migrations, "pantry_log")
async def main():
    database = await Database.open(path, slice_)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, 512 << 10))
    while True:
        head = await database.write(lambda tx: log.append(tx, action="x", principal="operator:ana", reason="r" * 6000))
        print(head.seq, flush=True)
asyncio.run(main())
"""


def test_a_real_write_error_ends_the_process_with_70_and_keeps_what_was_told(pantry, tmp_path):
    """The kernel refuses a write (EFBIG, an I/O error to SQLite): exit 70, and every printed seq is in the log."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CHILD), pantry.path, pantry.migrations],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert run.returncode == 70, run.stderr[-2000:]
    assert "store_failed" in run.stdout + run.stderr
    told = [int(line) for line in run.stdout.splitlines() if line.isdigit()]
    assert told == list(range(1, len(told) + 1))
    assert len(told) > 10
    connection = pantry.peek()
    stored = connection.execute(prepare(select(func.max(pantry.log.table.c.seq))).sql).fetchone()[0]
    connection.close()
    assert stored >= told[-1]


def test_the_reply_leaves_after_the_flush_of_the_log(pantry, tmp_path):
    """Power loss: by the order of the system calls, each acknowledgement follows an fdatasync of the WAL that
    comes after the write of its commit."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    child = _CHILD.replace("resource.setrlimit", "0 and resource.setrlimit").replace("while True", "for _ in range(5)")
    trace = tmp_path / "trace"
    run = subprocess.run(
        [strace, "-f", "-y", "-s", "16", "-e", "trace=pwrite64,fdatasync,fsync,write", "-o", trace,
         sys.executable, "-c", textwrap.dedent(child), pantry.path, pantry.migrations],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    if "ptrace" in run.stderr.lower() and run.returncode:
        pytest.skip(f"strace may not trace here: {run.stderr.strip()[:200]}")
    assert run.returncode == 0, run.stderr[-2000:]
    events = []
    for line in trace.read_text().splitlines():
        if "-wal>" in line and "pwrite64(" in line:
            events.append("write")
        elif "-wal>" in line and "sync(" in line:
            events.append("flush")
        elif " write(1<" in line and "\\n" in line:
            events.append("reply")
    replies = [index for index, event in enumerate(events) if event == "reply"]
    assert len(replies) == 5
    for index in replies:
        assert events[index - 1] == "flush", events[max(0, index - 5) : index + 1]
        assert "write" in events[index - 3 : index], events[max(0, index - 5) : index + 1]
