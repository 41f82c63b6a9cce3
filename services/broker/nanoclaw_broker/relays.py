"""Relays on disk: which attempt may think, for which group and task; functions that take a tx."""

import sqlite3
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select, update

from nanoclaw_broker.policy import POLICY_VERSION
from nanoclaw_broker.tables import LOG, relays
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store import Change, Tx, prepare

_c = relays.c
_INSERT = prepare(insert(relays))
_FIND = prepare(select(relays).where(_c.attempt_id == bindparam("which")))
_OPEN = prepare(select(relays).where(_c.state == "OPEN").order_by(_c.attempt_id))
_CLOSE = prepare(
    update(relays)
    .where(_c.attempt_id == bindparam("which"), _c.state == "OPEN")
    .values(state="CLOSED", closed_at=bindparam("closed_at"))
)


@dataclass(frozen=True, slots=True)
class Relay:
    """Whose relay it is; established by the socket, never by what a request says. traceparent: the attempt's."""

    attempt: str
    group: str
    task_id: str = ""
    traceparent: str = ""


def open_(tx: Tx, wanted: Relay, principal: str, *, request_id: str, trace_id: str) -> None:
    """Writes an attempt's relay, if there is none yet.

    Raises CONFLICT RELAY_EXISTS if it was opened for something else, PRECONDITION RELAY_CLOSED.
    """
    row = tx.one(_FIND, which=wanted.attempt)
    if row is None:
        columns = {
            "group_name": wanted.group,
            "task_id": wanted.task_id,
            "traceparent": wanted.traceparent,
            "state": "OPEN",
            "opened_at": tx.now,
            "closed_at": "",
        }
        tx.run(_INSERT, attempt_id=wanted.attempt, **columns)
        _log(tx, "open_relay", wanted, columns, principal, request_id, trace_id)
        return
    there = as_relay(row)
    if (there.group, there.task_id) != (wanted.group, wanted.task_id):
        message = f"attempt {wanted.attempt} has a relay for another group or task"
        raise NanoclawError(Kind.CONFLICT, "RELAY_EXISTS", message, next_step="give the new attempt an id of its own")
    if row["state"] != "OPEN":
        message = f"the relay of attempt {wanted.attempt} is closed for good"
        raise NanoclawError(Kind.PRECONDITION, "RELAY_CLOSED", message, next_step="start another attempt")


def close(tx: Tx, attempt: str, principal: str, *, request_id: str = "", trace_id: str = "") -> bool:
    """Ends a relay for good; False where none is open."""
    row = tx.one(_FIND, which=attempt)
    if row is None or tx.run(_CLOSE, which=attempt, closed_at=tx.now) != 1:
        return False
    columns = {"state": "CLOSED", "closed_at": tx.now}
    _log(tx, "close_relay", as_relay(row), columns, principal, request_id, trace_id)
    return True


def open_ones(tx: Tx) -> list[Relay]:
    """All that are open."""
    return [as_relay(row) for row in tx.all(_OPEN)]


def find_open(tx: Tx, attempt: str) -> Relay | None:
    """The attempt's relay, if it is open."""
    row = tx.one(_FIND, which=attempt)
    return as_relay(row) if row is not None and row["state"] == "OPEN" else None


def as_relay(row: sqlite3.Row) -> Relay:
    """What a row says."""
    return Relay(row["attempt_id"], row["group_name"], row["task_id"], row["traceparent"])


def _log(
    tx: Tx, action: str, relay: Relay, columns: dict[str, str], principal: str, request_id: str, trace_id: str
) -> None:
    LOG.append(
        tx,
        action=action,
        principal=principal,
        subject=relay.group,
        task_id=relay.task_id,
        attempt_id=relay.attempt,
        to_state=columns["state"],
        policy_version=POLICY_VERSION,
        request_ref=request_id,
        trace_id=trace_id,
        changes=[Change(relays.name, {"attempt_id": relay.attempt}, columns)],
    )
