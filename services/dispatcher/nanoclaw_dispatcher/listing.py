"""Reading dispatches: one by id or key, pages of them, and how many are at what."""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, bindparam, or_, select

from nanoclaw_core.errors import not_found
from nanoclaw_dispatcher import attempts, dispatches, tables
from nanoclaw_dispatcher.lifecycle import DispatchState
from nanoclaw_store import Tx, prepare

_D = tables.dispatches.c
_WHERE = "list them with ListDispatches, or `nanoclaw dispatch list`"
_STATES = tuple(str(state) for state in DispatchState)

PAGE = prepare(
    select(tables.dispatches)
    .where(
        or_(bindparam("task") == "", _D.task_id == bindparam("task")),
        or_(bindparam("group") == "", _D.group_name == bindparam("group")),
        or_(*(and_(_D.state == state, bindparam(f"with_{state}") == 1) for state in _STATES)),
        or_(bindparam("before") == "", _D.id < bindparam("before")),
    )
    .order_by(_D.id.desc())
    .limit(bindparam("most"))
)


class Filter(NamedTuple):
    """What a list shows; empty: all."""

    task_id: str = ""
    group: str = ""
    states: Sequence[str] = ()


class Found(NamedTuple):
    """A dispatch with its attempts."""

    dispatch: sqlite3.Row
    attempts: list[sqlite3.Row]


def find(tx: Tx, name: str) -> Found:
    """By id, or by key. Raises INVALID_FIELD for no name, DISPATCH_NOT_FOUND."""
    row = tx.one(dispatches.BY_ID, id=name) or tx.one(dispatches.BY_KEY, key=name)
    if row is None:
        raise not_found("dispatch", name, "dispatch_id", _WHERE)
    return Found(row, tx.all(attempts.OF_DISPATCH, dispatch=row["id"]))


def page(tx: Tx, wanted: Filter, before: str, most: int) -> list[Found]:
    """Newest first, from below the id `before` on."""
    shown = {f"with_{state}": int(not wanted.states or state in wanted.states) for state in _STATES}
    rows = tx.all(PAGE, task=wanted.task_id, group=wanted.group, before=before, most=most, **shown)
    return [Found(row, tx.all(attempts.OF_DISPATCH, dispatch=row["id"])) for row in rows]
