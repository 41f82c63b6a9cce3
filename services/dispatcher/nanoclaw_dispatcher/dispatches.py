"""Dispatches on disk: every change of one, and of its attempt with it, goes to the tables and the log alike."""

import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import bindparam, insert, select, update

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import attempts, tables
from nanoclaw_dispatcher.dispatch import Dispatch, Rule, Start
from nanoclaw_dispatcher.ending import Settlement
from nanoclaw_dispatcher.lifecycle import OPEN as OPEN_STATES
from nanoclaw_dispatcher.lifecycle import TRANSITIONS, AttemptState, Code, DispatchState
from nanoclaw_dispatcher.task import Task
from nanoclaw_store import Change, Tx, prepare
from nanoclaw_telemetry import TraceContext

_D = tables.dispatches.c
_OPEN = _D.state.in_(("ENQUEUED", "STARTED"))

INSERT = prepare(insert(tables.dispatches))
BY_ID = prepare(select(tables.dispatches).where(_D.id == bindparam("id")))
BY_KEY = prepare(select(tables.dispatches).where(_D.dispatch_key == bindparam("key")))
OF_TASK = prepare(select(tables.dispatches).where(_D.task_id == bindparam("task")).order_by(_D.task_version, _D.id))
ALL = prepare(select(tables.dispatches).order_by(_D.id))
OPEN = prepare(select(tables.dispatches).where(_OPEN).order_by(_D.id))
_COLUMNS = (
    "seen_version", "state", "code", "reason", "attempts", "failures", "not_before", "cancelled_by", "updated_at",
)  # fmt: skip
UPDATE = prepare(
    update(tables.dispatches)
    .where(_D.id == bindparam("which"), _D.state == bindparam("expected"))
    .values({name: bindparam(f"new_{name}") for name in _COLUMNS})
)
CANCELLED_OPEN = prepare(select(tables.dispatches).where(_OPEN, _D.cancelled_by != ""))
HELD = prepare(
    select(tables.dispatches)
    .join(tables.leases, tables.leases.c.dispatch_id == _D.id)
    .where(_OPEN, tables.leases.c.owner == bindparam("owner"))
    .order_by(_D.id)
)


class Held(NamedTuple):
    """An open dispatch with its live attempt, if it has one."""

    dispatch: sqlite3.Row
    attempt: sqlite3.Row | None


class Enqueued(NamedTuple):
    """A dispatch with the attempt that was inserted for it."""

    dispatch: sqlite3.Row
    attempt: sqlite3.Row


def rule_view(row: sqlite3.Row) -> Dispatch:
    """The dispatch as the rules look at it."""
    return Dispatch(
        row["id"],
        row["dispatch_key"],
        row["group_name"],
        Rule(row["rule"]),
        row["round"],
        row["task_version"],
        row["seen_version"],
        DispatchState(row["state"]),
        Code(row["code"]),
        row["reason"],
    )


def of_task(tx: Tx, task_id: str) -> list[Dispatch]:
    """All dispatches of the task, oldest first."""
    return [rule_view(row) for row in tx.all(OF_TASK, task=task_id)]


def held_by(tx: Tx, owner: str) -> list[Held]:
    """The open dispatches that the owner drives."""
    return [Held(row, tx.one(attempts.LIVE_OF_DISPATCH, dispatch=row["id"])) for row in tx.all(HELD, owner=owner)]


def enqueue(tx: Tx, new_id: str, start: Start, task: Task, *, instance: str) -> Enqueued:
    """Inserts the dispatch that the rules ask for, with its first attempt. The key is unique, or IntegrityError."""
    values: dict[str, Any] = {
        "id": new_id,
        "dispatch_key": start.key,
        "task_id": task.id,
        "group_name": start.group,
        "rule": int(start.rule),
        "from_state": str(start.from_state),
        "to_state": str(start.to_state or ""),
        "task_version": task.version,
        "seen_version": task.version,
        "round": start.round,
        "priority": task.priority,
        "because": start.reason,
        "state": str(DispatchState.ENQUEUED),
        "code": "",
        "reason": "",
        "attempts": 1,
        "failures": 0,
        "not_before": "",
        "cancelled_by": "",
        "traceparent": task.traceparent,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    tx.run(INSERT, **values)
    change = Change(tables.dispatches.name, {"id": new_id}, {name: values[name] for name in values if name != "id"})
    attempt, attempt_change = attempts.insert(tx, values, 1)
    _log(tx, "enqueue", values, DispatchState.ENQUEUED, [change, attempt_change], attempt, instance=instance)
    return Enqueued(_must(tx.one(BY_ID, id=new_id)), _must(tx.one(attempts.BY_ID, id=attempt)))


def next_attempt(tx: Tx, dispatch_id: str, *, instance: str) -> Enqueued:
    """Inserts the next attempt of an ENQUEUED dispatch that has none alive. Raises CONFLICT otherwise."""
    row = _must(tx.one(BY_ID, id=dispatch_id))
    taken = tx.one(attempts.LIVE_OF_GROUP, task=row["task_id"], group=row["group_name"])
    if row["state"] != DispatchState.ENQUEUED or taken is not None:
        raise attempts.conflict("dispatch", row, "has an attempt alive, or waits for none")
    number = row["attempts"] + 1
    change = _update(tx, row, attempts=number, not_before="")
    attempt, attempt_change = attempts.insert(tx, dict(row), number)
    _log(tx, "enqueue", row, DispatchState.ENQUEUED, [change, attempt_change], attempt, instance=instance)
    return Enqueued(_must(tx.one(BY_ID, id=dispatch_id)), _must(tx.one(attempts.BY_ID, id=attempt)))


def started(tx: Tx, attempt: str, mailbox: str, started_at: str, *, instance: str, action: str = "start") -> None:
    """Records that the attempt's process was seen. action: `start`, or `adopt` after a crash."""
    seen = _must(tx.one(attempts.BY_ID, id=attempt))
    row = _must(tx.one(BY_ID, id=seen["dispatch_id"]))
    changes = [
        attempts.update(tx, seen, state=AttemptState.STARTED, mailbox=mailbox, started_at=started_at or tx.now),
        _update(tx, row, state=DispatchState.STARTED),
    ]
    _log(tx, action, row, DispatchState.STARTED, changes, attempt, instance=instance)


def ended(
    tx: Tx, attempt: str, settlement: Settlement, exit_code: int | None, last_lines: str, version: int, *, instance: str
) -> str:
    """Records the end of an attempt and what follows for its dispatch. Answers the log's action.

    version: of the task, as it was when that was settled; 0 where it was not read.
    """
    seen = _must(tx.one(attempts.BY_ID, id=attempt))
    row = _must(tx.one(BY_ID, id=seen["dispatch_id"]))
    changes = [
        attempts.update(
            tx, seen, state=settlement.attempt, outcome=str(settlement.outcome), exit_code=exit_code,
            last_lines=last_lines, ended_at=tx.now,
        ),
        _update(
            tx, row, state=settlement.dispatch, code=str(settlement.code), reason=settlement.reason,
            failures=settlement.failures, not_before=settlement.not_before,
            seen_version=max(row["seen_version"], version),
        ),
    ]  # fmt: skip
    action = {
        DispatchState.DONE: "end",
        DispatchState.ENQUEUED: "retry",
        DispatchState.FAILED: "fail",
        DispatchState.CANCELLED: "cancel",
    }[settlement.dispatch]
    _log(tx, action, row, settlement.dispatch, changes, attempt, instance=instance, reason=settlement.reason)
    return action


def close_waiting(tx: Tx, dispatch_id: str, code: Code, reason: str, version: int, *, instance: str) -> bool:
    """Cancels an open dispatch without a live attempt; False where that is not so any more. version: as in `ended`.

    Where a person wanted it cancelled, that is why, whatever its task has done since.
    """
    row = tx.one(BY_ID, id=dispatch_id)
    if row is None or row["state"] != DispatchState.ENQUEUED or tx.one(attempts.LIVE_OF_DISPATCH, dispatch=dispatch_id):
        return False
    if row["cancelled_by"]:
        code, reason = Code.CANCELLED, row["reason"]
    change = _update(
        tx, row, state=DispatchState.CANCELLED, code=str(code), reason=reason, not_before="",
        seen_version=max(row["seen_version"], version),
    )  # fmt: skip
    _log(tx, "cancel", row, DispatchState.CANCELLED, [change], "", instance=instance, reason=reason)
    return True


def request_cancel(tx: Tx, row: sqlite3.Row, *, principal: str, via: str, reason: str, request_ref: str) -> None:
    """Records that somebody wants an open dispatch cancelled; whoever drives it sees to that."""
    change = _update(tx, row, cancelled_by=principal, reason=reason)
    _log(
        tx, "request_cancel", row, DispatchState(row["state"]), [change], "", principal=principal, via=via,
        reason=reason, request_ref=request_ref,
    )  # fmt: skip


def reopen(tx: Tx, row: sqlite3.Row, *, principal: str, via: str, request_ref: str) -> None:
    """Makes a closed dispatch wait for a further attempt, failures forgiven; or ends the pause of an open one."""
    change = _update(
        tx, row, state=DispatchState.ENQUEUED, code="", reason="", failures=0, not_before="", cancelled_by=""
    )
    _log(
        tx, "retry", row, DispatchState.ENQUEUED, [change], "", principal=principal, via=via, request_ref=request_ref
    )  # fmt: skip


def log_adoption(tx: Tx, row: sqlite3.Row, *, instance: str, before: str) -> None:
    """Records that this dispatcher drives the dispatch from now on."""
    _log(tx, "adopt", row, DispatchState(row["state"]), [], "", instance=instance, facts={"before": before})


def _update(tx: Tx, row: sqlite3.Row, **new: Any) -> Change:
    state = DispatchState(row["state"])
    target = DispatchState(new.get("state", state))
    if target not in TRANSITIONS[state] and not (target is state and state in OPEN_STATES):
        raise attempts.conflict("dispatch", row, f"is {state} and can't become {target}")
    values = {name: row[name] for name in _COLUMNS} | new | {"state": str(target), "updated_at": tx.now}
    if not tx.run(UPDATE, which=row["id"], expected=str(state), **{f"new_{k}": v for k, v in values.items()}):
        raise attempts.conflict("dispatch", row, "was changed by somebody else")
    changed = {name: value for name, value in values.items() if value != row[name]}
    return Change(tables.dispatches.name, {"id": row["id"]}, changed)


def _log(
    tx: Tx, action: str, row: Mapping[str, Any] | sqlite3.Row, to_state: DispatchState, changes: list[Change],
    attempt: str, *, instance: str = "", principal: str = "service:dispatcher", via: str = "", reason: str = "",
    request_ref: str = "", facts: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    trace = TraceContext.parse(row["traceparent"])
    tables.LOG.append(
        tx, action=action, principal=principal, via=via, changes=changes, task_id=row["task_id"], subject=row["id"],
        from_state=row["state"] if action != "enqueue" else "", to_state=str(to_state), attempt_id=attempt,
        reason=reason, request_ref=request_ref or row["dispatch_key"], trace_id=trace.trace_id if trace else "",
        facts={**(facts or {}), **({"instance": instance} if instance else {})},
    )  # fmt: skip


def _must(row: sqlite3.Row | None) -> sqlite3.Row:
    if row is None:
        raise NanoclawError(
            Kind.INTERNAL,
            "ROW_MISSING",
            "a row that has to be there is not",
            next_step="verify the log: nanoclaw audit verify",
        )
    return row
