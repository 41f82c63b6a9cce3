"""The engine: facts come in, the rules are asked, what they ask for is started as slots allow, and pursued."""

import asyncio
import contextlib
import contextvars
import sqlite3
from collections.abc import Coroutine
from typing import Any

import structlog

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import attempts, dispatches, leases, notes
from nanoclaw_dispatcher.blocking import block_while_waiting, read_or_none
from nanoclaw_dispatcher.board import IN_FLIGHT, Board, Candidate
from nanoclaw_dispatcher.dispatch import Move, Notify, Policy, Rule, Start, decide
from nanoclaw_dispatcher.follower import Follower
from nanoclaw_dispatcher.governance import passes_later
from nanoclaw_dispatcher.launch import PRODUCT_REFUSALS
from nanoclaw_dispatcher.lifecycle import Code, DispatchState
from nanoclaw_dispatcher.looking import Looking
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.pursuit import Pursuit
from nanoclaw_dispatcher.queue import Queue
from nanoclaw_dispatcher.task import Task, TaskState
from nanoclaw_dispatcher.upkeep import Upkeep
from nanoclaw_store import Tx

log = structlog.get_logger()

_STATES = {getattr(pb, f"TASK_STATE_{state}"): state for state in TaskState}


class Engine:
    """Everything that one dispatcher does by itself."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.policy = Policy(frozenset(group.name for group in means.groups), means.limits.max_rework)
        self.board = Board()
        self.pursuits: dict[str, Pursuit] = {}
        self.queue = Queue(means, self.board, self._begin, self.spawn)
        self.follower = Follower(means.governance, means.database.read(notes.place), self.note, self.read_anew)
        self.upkeep = Upkeep(self)
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._looking = Looking(means.governance, self.consider, self.board.forget, self.spawn)
        self._own_keys: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._context = contextvars.copy_context()
        self._stopping = False

    async def start(self) -> None:
        """Begins; what the dispatcher before left is adopted first."""
        await self.upkeep.adopt()
        self.spawn(self.follower.run())
        self.spawn(self.upkeep.keep_leases())
        self.spawn(self.upkeep.sweep_now_and_then())

    async def stop(self) -> None:
        """Takes no new work, lets agents run, gives the leases up: another dispatcher, or the next one, adopts."""
        await self.abandon()
        if self.follower.place is not None:
            place = self.follower.place
            await self.means.database.write(lambda tx: notes.save_place(tx, place))
        await self.means.database.write(lambda tx: leases.release_all(tx, self.means.instance))

    async def abandon(self) -> None:
        """Stops where it is, as a crash would; leases stay until they lapse."""
        self._stopping = True
        self.queue.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=1.0)  # then again: a task may have swallowed it

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Runs beside everything else, outside the context of whichever RPC asked for it."""
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("engine_task_failed", error=repr(error), exc_info=error)

    # facts in

    def note(self, fact: pb.Activity, message: pb.Task | None) -> None:
        """A fact of governance's log: looks at its task, as it was read since, if the rules may have to do with it."""
        task_id = fact.task_id
        if not task_id:
            self.means.governance.forget_products()
            for task in self.board:
                if task.product_id:
                    self.look(task.id)
            return
        if fact.action == "bind_attempt" or fact.request_ref in self._own_keys:
            return  # a binding changes nothing of the task; of our own claim its answer tells more
        known = self.board.get(task_id)
        if fact.action == "transition":
            self._tell_mover(task_id, fact.attempt_id)
            if known or _STATES.get(fact.to_state) in IN_FLIGHT:
                self.look(task_id, message)
        elif known and (fact.action in ("assign", "update") or known.state in (TaskState.READY, TaskState.REVIEW)):
            self._tell_mover(task_id, "")
            self.look(task_id, message)

    def _tell_mover(self, task_id: str, attempt_id: str) -> None:
        """While the facts come one by one: a reading may show the task as somebody else left it since."""
        for pursuit in self.pursuits.values():
            if pursuit.task_id == task_id:
                pursuit.moved_by(attempt_id)

    def read_anew(self) -> None:
        """Facts may have been missed."""
        self.means.governance.forget_products()
        self.upkeep.sweep_soon()

    def look(self, task_id: str, message: pb.Task | None = None) -> None:
        """Asks the rules about the task as the message has it, or as it is now."""
        if not self._stopping:
            self._looking.at(task_id, message)

    # the rules

    async def consider(self, task: Task, message: pb.Task) -> None:
        """Asks the rules about a reading and does what they say. Raises what governance answers a move with."""
        task, message = self.board.see(task, message)
        known = self.means.database.read(lambda tx: dispatches.of_task(tx, task.id))
        for dispatch in known:
            if (pursuit := self.pursuits.get(dispatch.id)) is not None:
                pursuit.see(task, message)
        decision = decide(task, known, self.policy)
        for dispatch_id in decision.withdraw:
            await self._withdraw(dispatch_id, task)
        step = decision.step
        if isinstance(step, Start):
            self.board.offer(task, step, self.means.now)
            self.queue.serve()
            return
        self.board.candidates.pop(task.id, None)
        if isinstance(step, Move):
            await self._move(task, step)
        elif isinstance(step, Notify):
            await self._notify(task, step)
        else:
            self.queue.serve()

    async def _move(self, task: Task, move: Move) -> None:
        try:
            moved = await self.means.governance.move(
                task.id, move.to_state, request_id=move.key, version=task.version, reason=move.reason
            )
        except NanoclawError as error:
            if passes_later(error):
                raise
            if error.kind is Kind.CONFLICT:
                self.look(task.id)
                return
            if error.reason in PRODUCT_REFUSALS:
                self.means.governance.forget_products()
                self.look(task.id)
                return
            await self._notify(task, Notify("MOVE_REFUSED", move.key, f"{move.to_state} refused: {error}"))
            return
        log.info("task_moved", task=task.id, to=str(move.to_state), key=move.key, reason=move.reason)
        if move.to_state is TaskState.DOING:
            await self.consider(await self.means.governance.as_task(moved), moved)

    async def _notify(self, task: Task, notify: Notify) -> None:
        if self.means.database.read(lambda tx: notes.given(tx, task.id, notify)):
            return
        instance = self.means.instance
        if await self.means.database.write(
            lambda tx: notes.give(tx, task.id, notify, task.traceparent, instance=instance)
        ):
            log.info("notice", task=task.id, notice=notify.notice, message=notify.message)

    async def _withdraw(self, dispatch_id: str, task: Task) -> None:
        pursuit = self.pursuits.get(dispatch_id)
        if pursuit is None:
            if self.queue.waits(dispatch_id):
                await self._close_waiting(
                    dispatch_id, Code.WITHDRAWN, f"the task has moved: it is {task.state}", task.version
                )
            return
        pursuit.withdraw(f"the task was moved away: it is {task.state}")

    # starting

    async def _begin(self, candidate: Candidate | None, dispatch_id: str) -> None:
        """Takes a slot: inserts the attempt, if the rules still say so, and drives it."""
        means = self.means
        new_id = dispatch_id or means.new_id()

        def unit(tx: Tx) -> dispatches.Enqueued | bool:
            if sum(attempts.running_by_group(tx).values()) >= means.limits.max_containers:
                return False
            if candidate is None:
                leases.hold(tx, dispatch_id, means.instance)
                return dispatches.next_attempt(tx, dispatch_id, instance=means.instance)
            start, task = candidate.start, candidate.task
            if decide(task, dispatches.of_task(tx, task.id), self.policy).step != start:
                return True
            leases.take(tx, new_id, owner=means.instance, seconds=means.limits.lease_seconds)
            return dispatches.enqueue(tx, new_id, start, task, instance=means.instance)

        enqueued = await means.database.write(unit)
        if enqueued is False:
            return  # another dispatcher has the slot: it waits on
        if candidate is None:
            self.queue.forget(dispatch_id)
        elif self.board.candidates.get(candidate.task.id) == candidate:
            del self.board.candidates[candidate.task.id]
            if candidate.start.rule is Rule.EXECUTE:
                self.board.begin(candidate.task)
        if isinstance(enqueued, dispatches.Enqueued):
            self.drive(enqueued.dispatch, enqueued.attempt, fresh=candidate is not None)
        elif candidate is not None:
            self.look(candidate.task.id)

    def drive(self, dispatch: sqlite3.Row, attempt: sqlite3.Row, *, fresh: bool = False) -> None:
        """Pursues an attempt of a dispatch that is ours. fresh: both were inserted just now."""
        if self._stopping or dispatch["id"] in self.pursuits:
            return
        pursuit = self.pursuits[dispatch["id"]] = Pursuit(self.means, dispatch, attempt, self.board.see, fresh=fresh)
        if dispatch["cancelled_by"]:
            pursuit.end(Code.CANCELLED, dispatch["reason"])
        self._own_keys.add(dispatch["dispatch_key"])
        self._driving[dispatch["id"]] = self.spawn(self._drive(pursuit))

    async def _drive(self, pursuit: Pursuit) -> None:
        dispatch_id = pursuit.dispatch["id"]
        settlement = None
        try:
            settlement = await pursuit.run()
        except leases.LeaseLost:
            log.warning("lease_lost", dispatch=dispatch_id, attempt=pursuit.attempt["id"])
        finally:
            self.pursuits.pop(dispatch_id, None)
            self._driving.pop(dispatch_id, None)
            self._own_keys.discard(pursuit.dispatch["dispatch_key"])
        if settlement is not None:
            if settlement.dispatch is DispatchState.ENQUEUED:
                self.queue.wait(self.means.database.read(lambda tx: tx.one(dispatches.BY_ID, id=dispatch_id)))
                self.means.governance.forget_products()  # if that is why it waits
            blocked = settlement.code is Code.CANCELLED
            self.look(pursuit.task_id, pursuit.reading[1] if pursuit.reading and not blocked else None)
        self.queue.serve()

    def resume_soon(self) -> None:
        """A dispatch of ours was opened again."""
        self.spawn(self.upkeep.resume())

    def let_go(self, dispatch_id: str) -> None:
        """Its lease is another's now: its agent is left to them."""
        if (driving := self._driving.get(dispatch_id)) is not None:
            driving.cancel()
        self.queue.forget(dispatch_id)

    # a person's wishes

    async def cancel(self, row: sqlite3.Row) -> None:
        """Ends what a person cancelled, if this dispatcher drives it."""
        pursuit = self.pursuits.get(row["id"])
        if pursuit is not None:
            pursuit.end(Code.CANCELLED, row["reason"])
        elif self.queue.waits(row["id"]):
            reading = await read_or_none(self.means, row["task_id"])
            await block_while_waiting(self.means, row, reading, row["reason"])
            await self._close_waiting(row["id"], Code.CANCELLED, row["reason"], reading[0].version if reading else 0)

    async def _close_waiting(self, dispatch_id: str, code: Code, reason: str, version: int) -> None:
        means = self.means

        def unit(tx: Tx) -> None:
            leases.hold(tx, dispatch_id, means.instance)
            if dispatches.close_waiting(tx, dispatch_id, code, reason, version, instance=means.instance):
                leases.release(tx, dispatch_id)

        self.queue.forget(dispatch_id)
        with contextlib.suppress(leases.LeaseLost):  # it was closed meanwhile, or is another's now
            await means.database.write(unit)
