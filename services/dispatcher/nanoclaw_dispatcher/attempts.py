"""Attempts on disk: each is inserted once, under a fence of its own, and ends once."""

import sqlite3
from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy import insert as inserting
from sqlalchemy import update as updating

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import tables
from nanoclaw_dispatcher.dispatch import attempt_id
from nanoclaw_dispatcher.lifecycle import ATTEMPT_TRANSITIONS, LIVE, AttemptState
from nanoclaw_store import Change, Tx, prepare
from nanoclaw_telemetry import TraceContext

_A = tables.attempts.c
_LIVE = _A.state.in_(("ENQUEUED", "STARTED"))

INSERT = prepare(inserting(tables.attempts))
BY_ID = prepare(select(tables.attempts).where(_A.id == bindparam("id")))
OF_DISPATCH = prepare(select(tables.attempts).where(_A.dispatch_id == bindparam("dispatch")).order_by(_A.number))
LIVE_OF_DISPATCH = prepare(select(tables.attempts).where(_A.dispatch_id == bindparam("dispatch"), _LIVE))
LIVE_OF_GROUP = prepare(
    select(_A.id).where(_A.task_id == bindparam("task"), _A.group_name == bindparam("group"), _LIVE)
)
LIVE_BY_GROUP = prepare(select(_A.group_name, func.count()).where(_LIVE).group_by(_A.group_name))
LAST_FENCE = prepare(select(func.coalesce(func.max(_A.fence), 0)))
_COLUMNS = ("state", "exit_code", "outcome", "last_lines", "mailbox", "started_at", "ended_at")
UPDATE = prepare(
    updating(tables.attempts)
    .where(_A.fence == bindparam("which"), _A.state == bindparam("expected"))
    .values({name: bindparam(f"new_{name}") for name in _COLUMNS})
)


def find(tx: Tx, attempt: str) -> sqlite3.Row | None:
    """The attempt of that id."""
    return tx.one(BY_ID, id=attempt)


def first(tx: Tx, dispatch_id: str) -> sqlite3.Row:
    """A dispatch's first attempt."""
    return tx.all(OF_DISPATCH, dispatch=dispatch_id)[0]


def running_by_group(tx: Tx) -> dict[str, int]:
    """How many attempts are alive, by group."""
    return {str(row[0]): int(row[1]) for row in tx.all(LIVE_BY_GROUP)}


def insert(tx: Tx, dispatch: Mapping[str, Any], number: int) -> tuple[str, Change]:
    """Inserts the attempt of that number, with the next fence; answers its id and what the log must hold about it."""
    task_trace = TraceContext.parse(dispatch["traceparent"])
    values = {
        "fence": _last_fence(tx) + 1,
        "id": attempt_id(dispatch["dispatch_key"], number),
        "dispatch_id": dispatch["id"],
        "number": number,
        "task_id": dispatch["task_id"],
        "group_name": dispatch["group_name"],
        "state": str(AttemptState.ENQUEUED),
        "exit_code": None,
        "outcome": "",
        "last_lines": "",
        "mailbox": "",
        "traceparent": (task_trace.child() if task_trace else TraceContext.new()).traceparent,
        "created_at": tx.now,
        "started_at": "",
        "ended_at": "",
    }
    tx.run(INSERT, **values)
    image = {name: values[name] for name in values if name != "fence"}
    return str(values["id"]), Change(tables.attempts.name, {"fence": values["fence"]}, image)


def update(tx: Tx, row: sqlite3.Row, **new: Any) -> Change:
    """Changes a live attempt, or ends it. Raises DISPATCH_CHANGED where it is not as `row` has it, or has ended."""
    state = AttemptState(row["state"])
    target = AttemptState(new["state"])
    if target not in ATTEMPT_TRANSITIONS[state] and not (target is state and state in LIVE):
        raise conflict("attempt", row, f"is {state} and can't become {target}")
    values = {name: row[name] for name in _COLUMNS} | new | {"state": str(target)}
    given = {f"new_{name}": value for name, value in values.items()}
    if not tx.run(UPDATE, which=row["fence"], expected=str(state), **given):
        raise conflict("attempt", row, "was changed by somebody else")
    changed = {name: value for name, value in values.items() if value != row[name]}
    return Change(tables.attempts.name, {"fence": row["fence"]}, changed)


def _last_fence(tx: Tx) -> int:
    row = tx.one(LAST_FENCE)
    return int(row[0]) if row is not None else 0


def conflict(noun: str, row: sqlite3.Row, what: str) -> NanoclawError:
    """Somebody else changed the dispatch, or its attempt, first."""
    return NanoclawError(
        Kind.CONFLICT,
        "DISPATCH_CHANGED",
        f"{noun} {row['id']} {what}",
        next_step="read the dispatch again and decide anew",
        state=row["state"],
    )
