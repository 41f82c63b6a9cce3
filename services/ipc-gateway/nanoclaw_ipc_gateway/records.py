"""Requests on disk: what each file that was taken in came to, and the answers for as long as they are kept."""

import sqlite3
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from nanoclaw_ipc_gateway.mailbox import Origin
from nanoclaw_ipc_gateway.tables import LOG, answers, requests
from nanoclaw_store import Change, Tx, prepare

ANSWERED = "ANSWERED"
QUARANTINED = "QUARANTINED"
RETRYING = "RETRYING"
DROPPED = "DROPPED"

_c = requests.c
_INSERT = prepare(insert(requests))
_UPDATE = prepare(
    update(requests)
    .where(_c.id == bindparam("which"))
    .values({name: bindparam(f"new_{name}") for name in ("type", "request_id", "state", "status", "code", "message")})
)
_STATE = prepare(update(requests).where(_c.id == bindparam("which")).values(state=bindparam("new_state")))
_FIND = prepare(
    select(requests, answers.c.name, answers.c.answer)
    .select_from(requests.outerjoin(answers, answers.c.id == _c.id))
    .where(_c.id == bindparam("which"))
)
_ANSWER = prepare(insert(answers))
_FORGET = prepare(delete(answers).where(answers.c.id == bindparam("which")))
_FORGET_OLD = prepare(delete(answers).where(answers.c.created_at < bindparam("before")))
_ANSWERS = prepare(select(func.count()).select_from(answers).where(answers.c.created_at < bindparam("before")))
_KEPT = prepare(
    select(_c.id)
    .where(_c.group_name == bindparam("group"), _c.state.in_([QUARANTINED, RETRYING]))
    .order_by(_c.id.desc())
    .limit(1000)
    .offset(bindparam("most"))
)
_QUARANTINE = prepare(
    select(requests)
    .where(
        _c.state.in_([QUARANTINED, RETRYING]),
        _c.id < bindparam("before"),
        (_c.group_name == bindparam("group")) | (bindparam("group") == ""),
    )
    .order_by(_c.id.desc())
    .limit(bindparam("most"))
)
_COUNTS = prepare(
    select(
        func.count().label("requests"),
        func.count().filter(_c.state == ANSWERED).label("answered"),
        func.count().filter(_c.state.in_([QUARANTINED, RETRYING])).label("quarantined"),
    )
)
LAST = "~"
"""Sorts after every ULID."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one file came to.

    name: the one it was answered under, empty where nothing could be. answer: the response file's content. task_id: the
    task that the request was about.
    """

    id: str
    origin: Origin
    source: str
    file_name: str
    type: str
    request_id: str
    digest: str
    size_bytes: int
    state: str
    status: str
    code: str
    message: str
    name: str
    answer: str
    task_id: str = ""
    trace_id: str = ""


def save(tx: Tx, record: Record, keep: int, changes: list[Change]) -> list[str]:
    """Writes the row, the answer and the fact; `changes` are those of the same fact to other tables.

    Answers the ids of quarantined files of the group that are not kept any more, beyond the newest `keep`.
    """
    origin = record.origin
    known = tx.one(_FIND, which=record.id)
    if known is None:
        values: dict[str, Any] = {
            "mailbox": origin.number,
            "group_name": origin.group,
            "attempt_id": origin.attempt_id,
            "source": record.source,
            "file_name": record.file_name,
            "type": record.type,
            "request_id": record.request_id,
            "digest": record.digest,
            "size_bytes": record.size_bytes,
            "state": record.state,
            "status": record.status,
            "code": record.code,
            "message": record.message,
            "created_at": tx.now,
        }
        tx.run(_INSERT, id=record.id, **values)
    else:
        values = {name: getattr(record, name) for name in ("type", "request_id", "state", "status", "code", "message")}
        tx.run(_UPDATE, which=record.id, **{f"new_{name}": value for name, value in values.items()})
        tx.run(_FORGET, which=record.id)
    tx.run(_ANSWER, id=record.id, name=record.name, answer=record.answer, created_at=tx.now)
    dropped = _drop(tx, origin.group, keep) if record.state == QUARANTINED else []
    LOG.append(
        tx,
        action="quarantine" if record.state in (QUARANTINED, DROPPED) else "answer",
        principal=origin.principal,
        changes=[
            Change("ipc_requests", {"id": record.id}, values),
            *changes,
            *(Change("ipc_requests", {"id": old}, {"state": DROPPED}) for old in dropped),
        ],
        task_id=record.task_id or origin.task_id,
        subject=record.id,
        from_state=known["state"] if known else "",
        to_state=record.state,
        attempt_id=origin.attempt_id,
        reason=record.code,
        request_ref=record.request_id,
        trace_id=record.trace_id,
    )
    return dropped


def _drop(tx: Tx, group: str, keep: int) -> list[str]:
    dropped = [row["id"] for row in tx.all(_KEPT, group=group, most=keep)]
    for old in dropped:
        tx.run(_STATE, which=old, new_state=DROPPED)
    return dropped


def set_state(tx: Tx, principal: str, row: sqlite3.Row, state: str, trace_id: str) -> None:
    """Moves a quarantined file's row to another state."""
    tx.run(_STATE, which=row["id"], new_state=state)
    LOG.append(
        tx,
        action="retry",
        principal=principal,
        changes=[Change("ipc_requests", {"id": row["id"]}, {"state": state})],
        subject=row["id"],
        from_state=row["state"],
        to_state=state,
        attempt_id=row["attempt_id"],
        trace_id=trace_id,
    )


def note_submission(tx: Tx, principal: str, origin: Origin, record_id: str, request_id: str, trace_id: str) -> None:
    """Logs who is about to speak in a group's name; what it comes to is a fact of its own."""
    LOG.append(
        tx,
        action="submit",
        principal=principal,
        task_id=origin.task_id,
        subject=record_id,
        attempt_id=origin.attempt_id,
        request_ref=request_id,
        trace_id=trace_id,
    )


def find(tx: Tx, record_id: str) -> sqlite3.Row | None:
    """A request's row with its answer (None once that is not kept any more)."""
    return tx.one(_FIND, which=record_id)


def quarantine(tx: Tx, group: str, before: str, most: int) -> list[sqlite3.Row]:
    """Files that are kept in quarantine, newest first; group: empty for all."""
    return tx.all(_QUARANTINE, group=group, before=before or LAST, most=most)


def forget_answers(tx: Tx, before: str) -> int:
    """Removes answers older than a moment; response files go at the same age."""
    return tx.run(_FORGET_OLD, before=before)


def old_answers(tx: Tx, before: str) -> int:
    """How many answers are older than a moment."""
    row = tx.one(_ANSWERS, before=before)
    return int(row[0]) if row else 0


def counts(tx: Tx) -> sqlite3.Row:
    """requests, answered, quarantined; reads the whole table."""
    row = tx.one(_COUNTS)
    assert row is not None
    return row
