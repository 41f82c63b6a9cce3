"""Watching: the log streamed from a cursor. What wakes a watcher carries nothing; rows come from the database."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

from nanoclaw_governance import activities, tasks
from nanoclaw_governance.activities import Unseen
from nanoclaw_governance.tables import LOG
from nanoclaw_governance.task import Task
from nanoclaw_store import Database, Tx

BATCH = 200
"""Rows read at once: the loop is free between two reads, however far behind a watcher is."""


class Seen(NamedTuple):
    """Where a watcher stands, and the row that brought it there; None: a heartbeat. task: the row's, if wanted."""

    epoch: int
    seq: int
    row: sqlite3.Row | None
    task: Task | None = None


async def watch(
    database: Database,
    cursor: tuple[int, int] | None,
    task_id: str,
    heartbeat_seconds: float,
    *,
    with_tasks: bool = False,
) -> AsyncIterator[Seen]:
    """Every row past the cursor, in order and once, for ever; a heartbeat after so many seconds without a row.

    cursor: (epoch, seq) of the last row seen; None: from the head on,
    which a first heartbeat names. task_id: only rows of this task. with_tasks: each with its task.
    Raises CURSOR_INVALID for a cursor that the log does not have; STORE_CLOSED at the end.
    """
    if cursor is None:
        epoch, seq, _ = database.read(LOG.head)
        yield Seen(epoch, seq, None)  # at once: who begins here knows from where
    else:
        epoch, seq = cursor
        database.read(lambda tx: LOG.check_cursor(tx, epoch, seq))
    loop = asyncio.get_running_loop()
    beat = loop.time() + heartbeat_seconds
    while True:
        commits = database.commits  # before the read: a commit after it then ends the wait at once
        unseen, about = database.read(partial(_unseen, task_id=task_id, after=seq, with_tasks=with_tasks))
        for row in unseen.rows:
            yield Seen(row["epoch"], row["seq"], row, about.get(row["task_id"]))
        seq = unseen.seq
        if unseen.rows:
            beat = loop.time() + heartbeat_seconds
        if not unseen.complete:
            continue
        try:
            async with asyncio.timeout_at(beat):
                await database.wait_commit(commits)
        except TimeoutError:
            beat = loop.time() + heartbeat_seconds
            # What was filtered out need not be read again by who resumes from here.
            yield Seen(unseen.epoch, unseen.seq, None)


def _unseen(tx: Tx, task_id: str, after: int, with_tasks: bool) -> tuple[Unseen, dict[str, Task | None]]:
    unseen = activities.unseen(tx, task_id, after, BATCH)
    wanted = {row["task_id"] for row in unseen.rows} if with_tasks else set()
    return unseen, {each: tasks.get(tx, each) for each in wanted if each}
