"""Blocking the task of a dispatch that a person cancelled, as long as it still waits for that dispatch."""

import sqlite3
from functools import partial

import structlog

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.dispatch import waits
from nanoclaw_dispatcher.dispatches import rule_view
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.task import Task, TaskState

log = structlog.get_logger()


async def read_or_none(means: Means, task_id: str) -> tuple[Task, pb.Task] | None:
    """The task as it is now; None where there is none."""
    try:
        return await means.steadily("read the task", lambda: means.governance.read(task_id))
    except NanoclawError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        return None


async def block_while_waiting(
    means: Means, dispatch: sqlite3.Row, reading: tuple[Task, pb.Task] | None, reason: str
) -> None:
    """Moves the task to BLOCKED, whatever else about it changes meanwhile, unless it has moved on by itself."""
    while reading is not None and waits(reading[0], rule_view(dispatch)):
        try:
            await means.steadily("block the task", partial(_block, means, reading[0], reason))
            return
        except NanoclawError as error:
            if error.kind is not Kind.CONFLICT:
                log.warning("block_refused", task=reading[0].id, reason=error.reason)
                return
        reading = await read_or_none(means, reading[0].id)


async def _block(means: Means, task: Task, reason: str) -> None:
    request_id = f"{task.id}:{task.state}->{TaskState.BLOCKED}:v{task.version}"
    await means.governance.move(task.id, TaskState.BLOCKED, request_id=request_id, version=task.version, reason=reason)
