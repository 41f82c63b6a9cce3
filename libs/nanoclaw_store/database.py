"""The database of a service: one writer, readers that write nothing, and the news that something was committed."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from nanoclaw_core.clock import Clock, utc_now
from nanoclaw_store import failures
from nanoclaw_store.connections import Connect, open_reader, open_writer
from nanoclaw_store.migrations import migrate
from nanoclaw_store.slices import Slice
from nanoclaw_store.statements import Statement
from nanoclaw_store.tx import Tx
from nanoclaw_store.writer import Job, Outcome, Writer

T = TypeVar("T")

_READ_THREADS = 2


class Database:
    """One slice of the one file; every method but the units themselves belongs to the event loop's thread."""

    def __init__(self, path: Path, slice_: Slice, clock: Clock, connect: Connect, die: failures.Die) -> None:
        self.path = path
        self.slice = slice_
        self._clock = clock
        self._connect = connect
        self._die = die
        self._loop = asyncio.get_running_loop()
        self._commits = 0
        self._next_commit: asyncio.Future[None] = self._loop.create_future()
        self._open = True
        self._readers: list[sqlite3.Connection] = []
        self._of_thread = threading.local()
        self._pool = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="nanoclaw-store-reader")

    @classmethod
    async def open(
        cls,
        path: Path,
        slice: Slice,  # the name the services use
        *,
        clock: Clock = utc_now,
        connect: Connect = sqlite3.connect,
        die: failures.Die = failures.exit_process,
        batch: int = 128,
        busy_seconds: float = 5.0,
    ) -> "Database":
        """Migrates the slice, then opens it. connect: a test's seam for faults. die: what ends the process when the
        disk fails. batch: how many units one COMMIT takes at most. busy_seconds: how long to wait for another writer.

        Raises NanoclawError of nanoclaw_store.migrations; STORE_UNREADABLE for what is no database, or a broken one.
        """
        try:
            await asyncio.to_thread(migrate, path, slice, clock=clock, connect=connect)
        except sqlite3.DatabaseError as error:
            raise failures.unreadable(path, error) or error from error
        database = cls(path, slice, clock, connect, die)
        database._reader = open_reader(path, connect)
        database._writer = Writer(
            partial(open_writer, path, slice.tables, connect),
            clock,
            database._answered,
            die,
            batch=batch,
            busy_seconds=busy_seconds,
        )
        database._writer.start()
        return database

    _reader: sqlite3.Connection
    _writer: Writer

    async def write(self, unit: Callable[[Tx], T]) -> T:
        """Runs the unit on the writer's thread and answers once it is durable; a refusal it raises, after COMMIT too.

        The unit may run twice, so it acts through its tx only. A caller that is cancelled does not undo its unit.
        Raises what the unit raises, or NanoclawError STORE_FULL, STORE_BUSY, STORE_FAILED, STORE_CLOSED: not stored.
        """
        if not self._open:
            raise failures.closed()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._writer.submit(Job(unit, answer))
        return await answer

    def read(self, query: Callable[[Tx], T]) -> T:
        """Runs a short query here and now, on one snapshot, without waiting for anybody."""
        if not self._open:
            raise failures.closed()
        return self._query(self._reader, query)

    def one(self, statement: Statement, /, **params: Any) -> sqlite3.Row | None:
        """The first row of one statement, or None; a snapshot by itself, which costs less than `read`."""
        if not self._open:
            raise failures.closed()
        try:
            return cast("sqlite3.Row | None", self._reader.execute(statement.sql, statement.bind(params)).fetchone())
        except BaseException as error:
            self._die_if_fatal(error)
            told = failures.translate(error)
            if told is error:
                raise
            raise told from error

    async def read_in_thread(self, query: Callable[[Tx], T]) -> T:
        """Runs a long query on one snapshot, in a thread."""
        if not self._open:
            raise failures.closed()
        return await self._loop.run_in_executor(self._pool, self._read_here, query)

    @property
    def commits(self) -> int:
        """How many batches have changed something, since the start."""
        return self._commits

    async def wait_commit(self, after: int) -> int:
        """Returns the number of commits as soon as it is above `after`. Raises STORE_CLOSED at the end."""
        while self._commits <= after:
            if not self._open:
                raise failures.closed()
            await asyncio.shield(self._next_commit)
        return self._commits

    async def close(self) -> None:
        """Does what is queued, then closes every connection; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        self._news()
        await asyncio.to_thread(self._pool.shutdown)
        for reader in (*self._readers, self._reader):
            reader.close()
        # The last to close moves the WAL into the file, which a reader may not.
        self._writer.finish()
        await asyncio.to_thread(self._writer.join)

    def _read_here(self, query: Callable[[Tx], T]) -> T:
        reader = getattr(self._of_thread, "connection", None)
        if reader is None:
            reader = self._of_thread.connection = open_reader(self.path, self._connect)
            self._readers.append(reader)
        return self._query(reader, query)

    def _query(self, connection: sqlite3.Connection, query: Callable[[Tx], T]) -> T:
        tx = Tx(connection, self._clock)
        try:
            connection.execute("BEGIN")
            return query(tx)
        except BaseException as error:
            tx.failure = tx.failure or error
            told = failures.translate(error)
            if told is error:
                raise
            raise told from error
        finally:
            tx.close()
            self._die_if_fatal(tx.failure)
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _die_if_fatal(self, error: BaseException | None) -> None:
        if failures.is_fatal(error):
            self._die(f"I/O error or corruption: {error!r}")

    def _answered(self, answers: Sequence[tuple[Job, Outcome]], changed: bool) -> None:
        """On the writer's thread."""
        try:
            self._loop.call_soon_threadsafe(self._tell, answers, changed)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            if not self._loop.is_closed():
                raise

    def _tell(self, answers: Sequence[tuple[Job, Outcome]], changed: bool) -> None:
        for job, outcome in answers:
            if job.answer.done():  # its caller was cancelled
                continue
            if outcome.error is None:
                job.answer.set_result(outcome.value)
            else:
                job.answer.set_exception(outcome.error)
        if changed:
            self._commits += 1
            self._news()

    def _news(self) -> None:
        self._next_commit.set_result(None)
        self._next_commit = self._loop.create_future()
