"""The small things that are remembered: notices given, groups' sessions, the place in governance's log."""

from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select, update

from nanoclaw_dispatcher import tables
from nanoclaw_dispatcher.dispatch import Notify
from nanoclaw_store import Change, Tx, prepare
from nanoclaw_telemetry import TraceContext

_N, _S, _C = tables.notices.c, tables.sessions.c, tables.cursors.c

FIND_NOTICE = prepare(select(_N.notice, _N.ref).where(_N.task_id == bindparam("task")))
INSERT_NOTICE = prepare(insert(tables.notices))
UPDATE_NOTICE = prepare(
    update(tables.notices)
    .where(_N.task_id == bindparam("task"))
    .values(notice=bindparam("new_notice"), ref=bindparam("new_ref"))
)
FIND_SESSION = prepare(select(_S.session_id).where(_S.group_name == bindparam("group")))
INSERT_SESSION = prepare(insert(tables.sessions))
DROP_SESSION = prepare(delete(tables.sessions).where(_S.group_name == bindparam("group")))
FIND_CURSOR = prepare(select(_C.epoch, _C.seq).where(_C.name == "governance"))
DROP_CURSOR = prepare(delete(tables.cursors).where(_C.name == "governance"))
INSERT_CURSOR = prepare(insert(tables.cursors))


class Place(NamedTuple):
    """A place in governance's log."""

    epoch: int
    seq: int


def given(tx: Tx, task_id: str, notify: Notify) -> bool:
    """Whether this notice was the last one given for the task."""
    row = tx.one(FIND_NOTICE, task=task_id)
    return row is not None and (row["notice"], row["ref"]) == (notify.notice, notify.ref)


def give(tx: Tx, task_id: str, notify: Notify, traceparent: str, *, instance: str) -> bool:
    """Records the notice with a log row; False where it was given already."""
    if given(tx, task_id, notify):
        return False
    values = {"notice": notify.notice, "ref": notify.ref}
    if not tx.run(UPDATE_NOTICE, task=task_id, new_notice=notify.notice, new_ref=notify.ref):
        tx.run(INSERT_NOTICE, task_id=task_id, **values)
    trace = TraceContext.parse(traceparent)
    tables.LOG.append(
        tx, action="notify", principal="service:dispatcher", task_id=task_id, subject=notify.notice,
        reason=notify.message, changes=[Change(tables.notices.name, {"task_id": task_id}, values)],
        facts={"instance": instance}, trace_id=trace.trace_id if trace else "",
    )  # fmt: skip
    return True


def session_of(tx: Tx, group: str) -> str:
    """The session that the group's next agent resumes; empty for none."""
    row = tx.one(FIND_SESSION, group=group)
    return str(row[0]) if row else ""


def remember_session(tx: Tx, group: str, session_id: str, attempt_id: str, *, instance: str) -> None:
    """Keeps the session that an agent reported, for the next of its group."""
    if session_of(tx, group) == session_id:
        return
    values = {"session_id": session_id, "attempt_id": attempt_id}
    tx.run(DROP_SESSION, group=group)
    tx.run(INSERT_SESSION, group_name=group, **values)
    tables.LOG.append(
        tx, action="session", principal="service:dispatcher", subject=group, attempt_id=attempt_id,
        changes=[Change(tables.sessions.name, {"group_name": group}, values)], facts={"instance": instance},
    )  # fmt: skip


def place(tx: Tx) -> Place | None:
    """How far governance's log was read."""
    row = tx.one(FIND_CURSOR)
    return Place(row["epoch"], row["seq"]) if row else None


def save_place(tx: Tx, at: Place) -> None:
    """Keeps the place; it may lag behind what was read."""
    tx.run(DROP_CURSOR)
    tx.run(INSERT_CURSOR, name="governance", epoch=at.epoch, seq=at.seq, saved_at=tx.now)
