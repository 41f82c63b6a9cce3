"""The single writer: a thread that runs queued units, each in a savepoint, and commits them together."""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nanoclaw_core.clock import Clock
from nanoclaw_store import failures
from nanoclaw_store.tx import Tx

_PAUSE_SECONDS = 0.0003  # others hold the lock for about a millisecond

Unit = Callable[[Tx], Any]


@dataclass(slots=True)
class Job:
    """A unit in the queue, and who waits for it."""

    unit: Unit
    answer: asyncio.Future[Any]


@dataclass(slots=True)
class Outcome:
    """What a unit came to: a value, or the error its caller gets."""

    value: Any = None
    error: BaseException | None = None


Answer = Callable[[Sequence[tuple[Job, Outcome]], bool], None]
"""Called once a batch, on the writer's thread: the outcomes, and whether anything was changed on the disk."""


class _TransactionLost(Exception):
    """The transaction of a batch is gone, whole: nothing of it is on the disk."""


class _Died(Exception):
    """The process was told to die and is still here, which only a test's is."""


class Writer(threading.Thread):
    """Owns the one connection of a service that writes.

    Nobody is told the opposite of the truth: an answer, a refusal too, leaves after the COMMIT it rests on. Where
    SQLite ended the transaction, or COMMIT surely failed, nothing was confirmed; the connection is opened anew and each
    unit runs once more, alone (so a unit has no effect but through its tx). Where it is not known what the disk holds,
    the process dies without a word, and the callers' retries find out under their request_id.
    """

    def __init__(
        self,
        open_connection: Callable[[], sqlite3.Connection],
        clock: Clock,
        answer: Answer,
        die: failures.Die,
        *,
        batch: int,
        busy_seconds: float,
    ) -> None:
        super().__init__(name="nanoclaw-store-writer", daemon=True)
        self._open = open_connection
        self._clock = clock
        self._answer = answer
        self._die = die
        self._batch = batch
        self._busy_seconds = busy_seconds
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None

    def submit(self, job: Job) -> None:
        """Queues a unit; from here on it runs, whether its caller still waits or not."""
        self._queue.put(job)

    def finish(self) -> None:
        """What is queued is still done; then the thread ends."""
        self._queue.put(None)

    def run(self) -> None:
        try:
            while jobs := self._take([]):
                self._serve(jobs)
        except _Died:
            pass
        except BaseException as error:  # a defect here must not leave callers waiting for ever
            self._die(f"defect in the writer: {error!r}")
        finally:
            self._discard()

    def _take(self, jobs: list[Job]) -> list[Job]:
        """Adds what is queued; waits for a unit if there is none yet. Empty: finish."""
        try:
            while len(jobs) < self._batch:
                job = self._queue.get(block=not jobs)
                if job is None:
                    if jobs:
                        self._queue.put(None)
                    break
                jobs.append(job)
        except queue.Empty:
            pass
        return jobs

    def _serve(self, jobs: list[Job]) -> None:
        try:
            outcomes, changed = self._together(jobs)
        except _TransactionLost:
            outcomes, changed = [], False
            for job in jobs:
                outcome, wrote = self._alone(job)
                outcomes.append(outcome)
                changed = changed or wrote
        self._answer(list(zip(jobs, outcomes, strict=True)), changed)

    def _together(self, jobs: list[Job]) -> tuple[list[Outcome], bool]:
        try:
            connection = self._begin()
        except Exception as error:
            self._gave_up(error)
            return [Outcome(error=failures.not_begun(error)) for _ in self._take(jobs)], False
        self._take(jobs)  # who came while another service was writing needs no commit of its own
        execute, outcomes, changed, changes = connection.execute, [], False, connection.total_changes
        try:
            for job in jobs:
                execute("SAVEPOINT unit")
                outcome = self._run(job, connection)
                if not connection.in_transaction:
                    raise _TransactionLost
                if outcome.error is not None:
                    execute("ROLLBACK TO unit")
                elif connection.total_changes != changes:
                    changed = True
                execute("RELEASE unit")
                changes = connection.total_changes  # counts what was rolled back, too
                outcomes.append(outcome)
        except _TransactionLost:
            self._discard()
            raise
        except (sqlite3.Error, MemoryError) as error:  # of a savepoint, not of a unit
            self._die_if_fatal(error)
            self._discard()
            raise _TransactionLost from error
        self._commit(connection)
        return outcomes, changed

    def _alone(self, job: Job) -> tuple[Outcome, bool]:
        try:
            connection = self._begin()
        except Exception as error:
            self._gave_up(error)
            return Outcome(error=failures.not_begun(error)), False
        before = connection.total_changes
        outcome = self._run(job, connection)
        if outcome.error is not None or not connection.in_transaction:
            self._discard()  # rolls back
            lost = failures.failed("the transaction ended under the unit")
            return Outcome(error=outcome.error or lost), False
        try:
            self._commit(connection)
        except _TransactionLost as lost_error:
            cause = lost_error.__cause__
            return Outcome(error=failures.translate(cause) if cause else lost_error), False
        return outcome, connection.total_changes != before

    def _run(self, job: Job, connection: sqlite3.Connection) -> Outcome:
        tx = Tx(connection, self._clock)
        try:
            outcome = Outcome(job.unit(tx))
        except BaseException as error:
            self._die_if_fatal(error)
            outcome = Outcome(error=failures.translate(error))
        tx.close()
        if tx.failure is not None:
            self._die_if_fatal(tx.failure)
            if outcome.error is None and not connection.in_transaction:
                outcome.error = failures.translate(tx.failure)
        return outcome

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return self._connection
            except sqlite3.OperationalError as error:
                # SQLite's own waiting grows to 100 ms a step, which starves one of several busy services.
                if not failures.is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except BaseException as error:
            if not failures.commit_surely_failed(error):
                self._end(f"COMMIT failed, and the disk may hold it or not: {error!r}")
            self._discard()
            raise _TransactionLost from error

    def _gave_up(self, error: Exception) -> None:
        """No transaction could begin."""
        self._die_if_fatal(error)
        self._discard()

    def _discard(self) -> None:
        """Closes the connection, which rolls back what is open; the next unit opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                self._die_if_fatal(error)

    def _die_if_fatal(self, error: BaseException) -> None:
        if failures.is_fatal(error):
            self._end(f"I/O error or corruption: {error!r}")

    def _end(self, reason: str) -> None:
        self._die(reason)
        raise _Died(reason)
