"""Who waits for a slot, new starts and further attempts alike, and the moment when one of them gets it."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from nanoclaw_core.clock import from_text
from nanoclaw_core.errors import NanoclawError
from nanoclaw_dispatcher import attempts, schedule
from nanoclaw_dispatcher.board import Board, Candidate
from nanoclaw_dispatcher.dispatch import Rule
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.schedule import Load, Waiting, WipLimit
from nanoclaw_dispatcher.task import TaskState

log = structlog.get_logger()

Begin = Callable[[Candidate | None, str], Awaitable[None]]
"""Takes a slot for a candidate, or for the further attempt of the dispatch of that id."""
Spawn = Callable[[Coroutine[Any, Any, Any]], Any]


class Queue:
    """The waiting. begin: called for each that may start now; who did not get its slot after all waits on."""

    def __init__(self, means: Means, board: Board, begin: Begin, spawn: Spawn) -> None:
        self._means = means
        self._board = board
        self._begin = begin
        self._spawn = spawn
        self._waiting: dict[str, sqlite3.Row] = {}
        self._beginning: dict[str, Waiting] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._wip = {group.name: WipLimit(group.wip_limit, group.wip_hard) for group in means.groups}
        self._warned: set[str] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def wait(self, dispatch: sqlite3.Row | None) -> None:
        """An open dispatch of ours has no attempt: it waits for its next."""
        if dispatch is not None:
            self._waiting[dispatch["id"]] = dispatch

    def waits(self, dispatch_id: str) -> bool:
        """Whether it waits here for its next attempt."""
        return dispatch_id in self._waiting

    def forget(self, dispatch_id: str) -> None:
        """It does not wait any more."""
        self._waiting.pop(dispatch_id, None)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._board.candidates)

    def close(self) -> None:
        """Nothing starts any more."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()

    def serve(self) -> None:
        """Starts who may start now; sets the alarm for the next pause that ends."""
        if self._closed or not (self._waiting or self._board.candidates):
            return
        now = self._means.now
        running = self._means.database.read(attempts.running_by_group)
        doing = self._board.doing()
        for begun in self._beginning.values():
            running[begun.group] = running.get(begun.group, 0) + 1
            if begun.begins:
                doing[begun.group] = doing.get(begun.group, 0) + 1
        slots = self._means.limits.max_containers - sum(running.values())
        waiting = self._eligible()
        load = Load(slots, running, doing, self._turns, self._wip)
        for each in schedule.choose(waiting, load, now):
            self._turn += 1
            self._turns[each.group] = self._turn
            self._beginning[each.key] = each
            self._spawn(self._take_slot(each, *waiting[each]))
        self._warn(doing)
        self._set_alarm(schedule.next_due(waiting, now), now)

    def _eligible(self) -> dict[Waiting, tuple[Candidate | None, str]]:
        """Who could start, but for slots, limits and pauses."""
        found: dict[Waiting, tuple[Candidate | None, str]] = {}
        for candidate in self._board.candidates.values():
            start, task = candidate.start, candidate.task
            begins = start.rule is Rule.EXECUTE
            each = Waiting(start.key, start.group, task.priority, candidate.since, "", begins)
            found[each] = (candidate, "")
        for row in self._waiting.values():
            known = self._board.get(row["task_id"])
            if known is None or (known.state is TaskState.READY and not known.startable):
                continue
            begins = known.state is TaskState.READY
            each = Waiting(
                row["dispatch_key"], row["group_name"], known.priority, row["created_at"], row["not_before"], begins
            )
            found[each] = (None, row["id"])
        return {each: what for each, what in found.items() if each.key not in self._beginning}

    async def _take_slot(self, each: Waiting, candidate: Candidate | None, dispatch_id: str) -> None:
        try:
            await self._begin(candidate, dispatch_id)
        except NanoclawError as error:
            log.warning("begin_failed", key=each.key, reason=error.reason, message=error.message)
            self.forget(dispatch_id)
            return
        finally:
            del self._beginning[each.key]
        self.serve()

    def _warn(self, doing: dict[str, int]) -> None:
        for group in doing:
            if not schedule.over(group, doing, self._wip):
                self._warned.discard(group)
            elif group not in self._warned:
                self._warned.add(group)
                log.warning("work_in_progress", group=group, doing=doing[group], limit=self._wip[group].limit)

    def _set_alarm(self, due: str, now: str) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if due:
            seconds = (from_text(due) - from_text(now)).total_seconds()
            self._alarm = asyncio.get_running_loop().call_later(seconds + 0.001, self.serve)
