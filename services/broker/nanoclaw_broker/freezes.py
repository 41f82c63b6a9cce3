"""Freezes on disk: functions that take a tx. Read anew for every call, so one is in force for the very next."""

import sqlite3
from typing import Any

from sqlalchemy import and_, bindparam, func, insert, or_, select, tuple_, update

from nanoclaw_broker.deeds import log_deed
from nanoclaw_broker.freeze import Freeze, Scope
from nanoclaw_broker.policy import Level
from nanoclaw_broker.tables import freezes
from nanoclaw_core.principal import Caller
from nanoclaw_store import Change, Tx, prepare

_c = freezes.c
_IN_FORCE = prepare(
    select(_c.scope, _c.name, _c.max_level, _c.reason).where(
        _c.active == 1,
        or_(
            _c.scope == Scope.ALL.value,
            and_(_c.scope == Scope.GROUP.value, _c.name == bindparam("group_name")),
            and_(_c.scope == Scope.PROVIDER.value, _c.name == bindparam("provider")),
        ),
    )
)
_this = (_c.scope == bindparam("which_scope"), _c.name == bindparam("which_name"))
_FIND = prepare(select(freezes).where(*_this))
_INSERT = prepare(insert(freezes))
_CHANGING = ("max_level", "reason", "principal", "frozen_at", "active", "changes")
_UPDATE = prepare(update(freezes).where(*_this).values({name: bindparam(name) for name in _CHANGING}))
_PAGE = prepare(
    select(freezes)
    .where(_c.active == 1, tuple_(_c.scope, _c.name) > tuple_(bindparam("after_scope"), bindparam("after_name")))
    .order_by(_c.scope, _c.name)
    .limit(bindparam("most"))
)
_CHANGES = prepare(select(func.coalesce(func.sum(_c.changes), 0)))


def in_force(tx: Tx, group: str, provider: str) -> tuple[Freeze, ...]:
    """Those that a call of the group to the provider meets."""
    return tuple(as_freeze(row) for row in tx.all(_IN_FORCE, group_name=group, provider=provider))


def as_freeze(row: sqlite3.Row) -> Freeze:
    """The rule's view of a row."""
    return Freeze(Scope(row["scope"]), row["name"], Level(row["max_level"]), row["reason"])


def find(tx: Tx, scope: Scope, name: str) -> sqlite3.Row | None:
    """The row of that scope, in force or lifted."""
    return tx.one(_FIND, which_scope=scope.value, which_name=name)


def set_(tx: Tx, wanted: Freeze, by: Caller, *, request_id: str, trace_id: str) -> sqlite3.Row:
    """Puts a freeze in force; one of the same scope takes the place of the earlier one."""
    columns = {
        "max_level": wanted.max_level.value,
        "reason": wanted.reason,
        "principal": by.principal,
        "frozen_at": tx.now,
        "active": 1,
    }
    return _write(tx, wanted.scope, wanted.name, "freeze", columns, by, wanted.reason, request_id, trace_id)


def lift(tx: Tx, row: sqlite3.Row, by: Caller, *, reason: str, request_id: str, trace_id: str) -> None:
    """Ends a freeze; who set it, when and why stays to be read."""
    columns = {name: row[name] for name in _CHANGING} | {"active": 0}
    _write(tx, Scope(row["scope"]), row["name"], "unfreeze", columns, by, reason, request_id, trace_id)


def _write(
    tx: Tx,
    scope: Scope,
    name: str,
    action: str,
    columns: dict[str, Any],
    by: Caller,
    reason: str,
    request_id: str,
    trace_id: str,
) -> sqlite3.Row:
    there = find(tx, scope, name)
    columns["changes"] = 1 if there is None else there["changes"] + 1
    if there is None:
        tx.run(_INSERT, scope=scope.value, name=name, **columns)
    else:
        tx.run(_UPDATE, which_scope=scope.value, which_name=name, **columns)
    change = Change(freezes.name, {"scope": scope.value, "name": name}, columns)
    subject = f"{scope.value}:{name}" if name else scope.value
    log_deed(tx, by, action, change, request_id=request_id, trace_id=trace_id, subject=subject, reason=reason)
    row = find(tx, scope, name)
    assert row is not None
    return row


def page(tx: Tx, after: tuple[str, str], most: int) -> list[sqlite3.Row]:
    """Those in force, by scope and name."""
    return tx.all(_PAGE, after_scope=after[0], after_name=after[1], most=most)


def changes(tx: Tx) -> int:
    """A number that rises with every freeze set or lifted."""
    row = tx.one(_CHANGES)
    return 0 if row is None else int(row[0])
