"""Looking at tasks: each by one at a time, at the newest reading there is, again when a newer one came meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.governance import Governance, passes_later
from nanoclaw_dispatcher.task import Task

log = structlog.get_logger()

_AT_ONCE = 32

Consider = Callable[[Task, pb.Task], Awaitable[None]]
"""Asks the rules about a reading and does what they say."""
Spawn = Callable[[Coroutine[Any, Any, Any]], Any]


class Looking:
    """The looks under way. gone: told of a task that there is not."""

    def __init__(self, governance: Governance, consider: Consider, gone: Callable[[str], None], spawn: Spawn) -> None:
        self._governance = governance
        self._consider = consider
        self._gone = gone
        self._spawn = spawn
        self._under_way: set[str] = set()
        self._again: dict[str, pb.Task | None] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def at(self, task_id: str, message: pb.Task | None) -> None:
        """Considers the task as the message has it, or as it is now; once more if that was asked for meanwhile."""
        if task_id not in self._under_way:
            self._under_way.add(task_id)
            self._spawn(self._look(task_id, message))
        elif self._again.setdefault(task_id, message) is not None:  # who wants it as it is now gets that
            self._again[task_id] = message

    async def _look(self, task_id: str, message: pb.Task | None) -> None:
        pause = 0.1
        try:
            while True:
                self._again.pop(task_id, None)
                try:
                    async with self._slots:
                        if message is None:
                            message = await self._governance.get(task_id)
                        await self._consider(await self._governance.as_task(message), message)
                except NanoclawError as error:
                    if error.kind is Kind.NOT_FOUND:
                        self._gone(task_id)
                    elif passes_later(error):
                        log.warning("look_waits", task=task_id, reason=error.reason, again_in_seconds=pause)
                        await asyncio.sleep(pause)
                        message, pause = None, min(pause * 2, 5.0)
                        continue
                    else:
                        log.error("look_failed", task=task_id, reason=error.reason, message=error.message)
                if task_id not in self._again:
                    return
                message = self._again[task_id]
        finally:
            self._under_way.discard(task_id)
