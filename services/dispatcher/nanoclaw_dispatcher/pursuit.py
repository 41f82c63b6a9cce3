"""One attempt from its row to its end: launched or adopted, watched over, settled. What dies here resumes here."""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

import structlog

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_dispatcher import attempts, dispatches, ending, leases, notes, relays
from nanoclaw_dispatcher.blocking import block_while_waiting, read_or_none
from nanoclaw_dispatcher.dispatch import waits
from nanoclaw_dispatcher.ending import End, Outcome, Settlement
from nanoclaw_dispatcher.launch import Launch, NotLaunched, last_words
from nanoclaw_dispatcher.lifecycle import AttemptState, Code, DispatchState
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.output import reported_session
from nanoclaw_dispatcher.runtime import EndReason, Observed, RunState
from nanoclaw_dispatcher.spans import emit_end, emit_start
from nanoclaw_dispatcher.supervision import Supervision
from nanoclaw_dispatcher.task import Task
from nanoclaw_store import Tx
from nanoclaw_telemetry import TraceContext, under

log = structlog.get_logger()


Saw = Callable[[Task, pb.Task], object]


class Wish(NamedTuple):
    """Why an attempt shall end before it does by itself."""

    code: Code
    reason: str


class Pursuit:
    """Drives one attempt of one dispatch that this dispatcher holds the lease of.

    fresh: the dispatch and its first attempt were inserted just now; False: any step may have been done before.
    saw: told of each reading of the task on the way.
    """

    def __init__(self, means: Means, dispatch: sqlite3.Row, attempt: sqlite3.Row, saw: Saw, *, fresh: bool) -> None:
        self._means = means
        self.dispatch = dispatch
        self.attempt = attempt
        self._fresh = fresh
        self._saw = saw
        self._unwanted = asyncio.Event()
        self._lingers = asyncio.Event()
        self._moved_away = False
        self._wish: Wish | None = None
        self._moved: tuple[Task, pb.Task] | None = None
        self.reading: tuple[Task, pb.Task] | None = None
        """The task as it was when the attempt had ended."""
        self._context = TraceContext.parse(attempt["traceparent"]) or TraceContext.new()

    @property
    def task_id(self) -> str:
        """The task that it is about."""
        return str(self.dispatch["task_id"])

    def end(self, code: Code, reason: str) -> None:
        """Stops the attempt now: a person cancelled it, or its task moved away. The first wish counts."""
        if self._wish is None:
            self._wish = Wish(code, reason)
        self._unwanted.set()

    def see(self, task: Task, message: pb.Task) -> None:
        """The newest reading of its task; one that has moved on needs no other when the attempt is settled."""
        self._moved = None if waits(task, dispatches.rule_view(self.dispatch)) else (task, message)

    def moved_by(self, attempt_id: str) -> None:
        """Its task was moved or changed, by that attempt; empty: by somebody else. Who moves it has done its work."""
        if attempt_id == self.attempt["id"]:
            self._lingers.set()
        else:
            self._moved_away = True

    def withdraw(self, reason: str) -> None:
        """Its task needs it no more: it is stopped if others saw to that, else it may finish, but not for ever."""
        if self._moved_away and not self._lingers.is_set():
            self.end(Code.WITHDRAWN, reason)
        else:
            self._lingers.set()

    async def run(self) -> Settlement | None:
        """Answers what was settled. Raises LeaseLost where another dispatcher has taken over."""
        with under(self._context):
            seen = await self._launched()
            if isinstance(seen, NotLaunched):
                return await self._settle(seen.end, seen)
            return await self._settle(await self._watch_over(seen), None)

    async def _launched(self) -> Observed | NotLaunched:
        attempt, means = self.attempt, self._means
        runtime = means.runtime_of(attempt)
        if not self._fresh and runtime is not None:
            seen = await means.steadily("inspect", lambda: runtime.inspect(attempt["id"]))
            if attempt["state"] == AttemptState.ENQUEUED and seen.over and not seen.started_at:
                return NotLaunched(End(Outcome.START_FAILED, detail="given up before a crash"))
            if seen.state not in (RunState.ABSENT, RunState.CREATED):
                await self._record_start(seen, attempt["mailbox"], "adopt")
                return seen
            if attempt["state"] == AttemptState.STARTED:
                return Observed(attempt["id"], RunState.LOST)
        launch = Launch(means, self.dispatch, attempt, self._unwanted, fresh=self._fresh)
        result = await launch.run()
        if launch.reading is not None:
            self._saw(*launch.reading)
        if isinstance(result, Observed):
            await self._record_start(result, launch.mailbox, "start")
        return result

    async def _record_start(self, seen: Observed, mailbox: str, action: str) -> None:
        if self.attempt["state"] == AttemptState.STARTED:
            return
        if not mailbox:  # started before a crash, without a record: opening again only tells where it is
            mailbox = await self._means.steadily("open the mailbox", lambda: self._means.mailboxes.open(self.attempt))
        instance = self._means.instance

        def unit(tx: Tx) -> sqlite3.Row | None:
            leases.hold(tx, self.dispatch["id"], instance)
            dispatches.started(tx, self.attempt["id"], mailbox, seen.started_at, instance=instance, action=action)
            return tx.one(attempts.BY_ID, id=self.attempt["id"])

        row = await self._means.database.write(unit)
        assert row is not None
        self.attempt = row
        emit_start(self._means.telemetry, self.dispatch, row)
        log.info(
            "attempt_started", task=self.task_id, group=row["group_name"], attempt=row["id"],
            key=self.dispatch["dispatch_key"], how=action,
        )  # fmt: skip

    async def _watch_over(self, seen: Observed) -> End:
        supervision = Supervision(self._means, self.attempt, self._unwanted, self._lingers)
        observed, outcome = await supervision.until_over(seen)
        if observed.state is not RunState.EXITED:
            return End(Outcome.LOST)
        detail = last_words(await self._lines())
        if observed.reason is EndReason.OUT_OF_MEMORY:
            most = self._means.group(self.attempt["group_name"]).memory_mb
            detail = f"it ran out of memory, of which its group may have {most} MiB (memory_mb). {detail}".strip()
        if observed.reason is EndReason.START_FAILED:
            outcome = Outcome.START_FAILED
        return End(outcome, observed.exit_code, detail)

    async def _lines(self) -> str:
        runtime = self._means.runtime_of(self.attempt)
        if runtime is None:
            return ""
        return await self._means.steadily("read the output", lambda: runtime.last_lines(self.attempt["id"]))

    async def _settle(self, end: End, not_launched: NotLaunched | None) -> Settlement:
        """Once nothing of it is alive: its last requests are decided, then the task says what came of it."""
        means, attempt = self._means, self.attempt
        if not_launched is not None:
            runtime = means.runtime_of(attempt)
            if runtime is not None:  # seals it: nobody starts it any more
                await means.steadily("seal", lambda: runtime.stop(attempt["id"], 0))
        if means.group(attempt["group_name"]).relay or relays.left(attempt["mailbox"]):
            await means.steadily("close the relay", lambda: means.relays.close(attempt["id"]))
        await means.steadily("close the mailbox", lambda: means.mailboxes.close(attempt["id"]))
        code, reason = self._wish or (Code.NONE, "")
        if code is Code.WITHDRAWN and end.outcome is not Outcome.CANCELLED:
            code = Code.NONE  # it ended by itself before it could be stopped
        if not_launched is not None and not_launched.code is not Code.NONE and code is not Code.CANCELLED:
            code, reason = not_launched.code, not_launched.reason
        if not_launched is not None and not_launched.waiting and code is Code.NONE:
            settlement = ending.postponed(not_launched.reason, self.dispatch["failures"], means.now)
        else:
            self.reading = self._moved or await read_or_none(means, self.task_id)
            moved = self.reading is None or not waits(self.reading[0], dispatches.rule_view(self.dispatch))
            if code is Code.CANCELLED:
                await block_while_waiting(means, self.dispatch, self.reading, reason)
            settlement = ending.settle(
                end, moved=moved, failures=self.dispatch["failures"], code=code, reason=reason,
                retry=means.limits.retry, now=means.now,
            )  # fmt: skip
        await self._record_end(end, settlement)
        return settlement

    async def _record_end(self, end: End, settlement: Settlement) -> None:
        means, attempt, instance = self._means, self.attempt, self._means.instance
        lines = await self._lines()
        session = reported_session(lines)
        version = self.reading[0].version if self.reading is not None else 0

        def unit(tx: Tx) -> list[sqlite3.Row]:
            leases.hold(tx, self.dispatch["id"], instance)
            dispatches.ended(tx, attempt["id"], settlement, end.exit_code, lines, version, instance=instance)
            if session:
                notes.remember_session(tx, attempt["group_name"], session, attempt["id"], instance=instance)
            if settlement.dispatch is not DispatchState.ENQUEUED:
                leases.release(tx, self.dispatch["id"])
            return list(tx.all(attempts.OF_DISPATCH, dispatch=self.dispatch["id"]))

        emit_end(means.telemetry, self.dispatch, await means.database.write(unit), str(settlement.dispatch))
        report = log.info if settlement.dispatch in (DispatchState.DONE, DispatchState.CANCELLED) else log.warning
        report(
            "attempt_ended", task=self.task_id, group=attempt["group_name"], attempt=attempt["id"],
            key=self.dispatch["dispatch_key"], outcome=str(settlement.outcome), exit_code=end.exit_code,
            dispatch_state=str(settlement.dispatch), reason=settlement.reason,
        )  # fmt: skip
