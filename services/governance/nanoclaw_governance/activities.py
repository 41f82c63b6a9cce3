"""The log, read: pages of it, the last rows of a task, and what a watcher has not seen yet."""

import sqlite3
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import bindparam, select

from nanoclaw_governance.tables import LOG
from nanoclaw_store import Head, Statement, Tx, prepare

_TABLE = LOG.table
_LAST = prepare(
    select(_TABLE)
    .where(_TABLE.c.task_id == bindparam("task_id"))
    .order_by(_TABLE.c.seq.desc())
    .limit(bindparam("most"))
)


@lru_cache(maxsize=4)
def _page(of_task: bool, of_action: bool) -> Statement:
    statement = select(_TABLE).where(_TABLE.c.seq > bindparam("after"))
    if of_task:
        statement = statement.where(_TABLE.c.task_id == bindparam("task_id"))
    if of_action:
        statement = statement.where(_TABLE.c.action == bindparam("action"))
    return prepare(statement.order_by(_TABLE.c.seq).limit(bindparam("most")))


def page(tx: Tx, task_id: str, action: str, after: int, most: int) -> list[sqlite3.Row]:
    """Rows past `after` in order, of one task and one action where they are given."""
    given = {name: value for name, value in (("task_id", task_id), ("action", action)) if value}
    return tx.all(_page(bool(task_id), bool(action)), after=after, most=most, **given)


def last(tx: Tx, task_id: str, most: int) -> list[sqlite3.Row]:
    """The last rows about a task, oldest first."""
    return tx.all(_LAST, task_id=task_id, most=most)[::-1]


class Unseen(NamedTuple):
    """What is new to a watcher. head: where it stands after these rows."""

    rows: list[sqlite3.Row]
    epoch: int
    seq: int
    complete: bool
    """Nothing else was there at that moment."""


def unseen(tx: Tx, task_id: str, after: int, most: int) -> Unseen:
    """The rows past `after`, at most so many, and the cursor behind them: the head's, if they were all."""
    head: Head = LOG.head(tx)
    if head.seq <= after:
        return Unseen([], head.epoch, head.seq, True)
    rows = page(tx, task_id, "", after, most)
    if len(rows) < most:
        return Unseen(rows, head.epoch, head.seq, True)
    return Unseen(rows, rows[-1]["epoch"], rows[-1]["seq"], False)
