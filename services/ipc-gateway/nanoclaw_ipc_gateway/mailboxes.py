"""Mailboxes on disk: which ones there are, whose they are, and which are open."""

import sqlite3

from sqlalchemy import bindparam, func, insert, select, update

from nanoclaw_core.errors import Kind, NanoclawError, not_found
from nanoclaw_ipc_gateway.mailbox import Origin
from nanoclaw_ipc_gateway.tables import LOG, mailboxes, requests
from nanoclaw_store import Change, Tx, prepare
from nanoclaw_telemetry import TraceContext

_c = mailboxes.c
_INSERT = prepare(insert(mailboxes))
_NEXT = prepare(select(func.coalesce(func.max(_c.number), 0) + 1))
_OPEN = prepare(select(mailboxes).where(_c.state == "OPEN").order_by(_c.number))
_BY_NUMBER = prepare(select(mailboxes).where(_c.number == bindparam("which")))
_BY_ATTEMPT = prepare(select(mailboxes).where(_c.attempt_id == bindparam("attempt"), _c.attempt_id != ""))
_STANDING = prepare(select(mailboxes).where(_c.group_name == bindparam("group"), _c.attempt_id == ""))
_CLOSE = prepare(
    update(mailboxes)
    .where(_c.number == bindparam("which"), _c.state == "OPEN")
    .values(state="CLOSED", closed_at=bindparam("moment"))
)
_LAST_FILE = prepare(
    select(func.max(requests.c.created_at)).where(
        requests.c.mailbox == bindparam("which"), requests.c.source != "submit"
    )
)


def origin(row: sqlite3.Row) -> Origin:
    """Whose mailbox a row describes."""
    return Origin(
        number=row["number"],
        group=row["group_name"],
        attempt_id=row["attempt_id"],
        task_id=row["task_id"],
        trace=TraceContext.parse(row["traceparent"]),
    )


def open_ones(tx: Tx) -> list[Origin]:
    """All that are open, oldest first."""
    return [origin(row) for row in tx.all(_OPEN)]


def find(tx: Tx, number: int) -> Origin | None:
    """The mailbox of that number, open or closed."""
    row = tx.one(_BY_NUMBER, which=number)
    return origin(row) if row else None


def of_attempt(tx: Tx, attempt_id: str) -> sqlite3.Row:
    """An attempt's mailbox. Raises MAILBOX_NOT_FOUND."""
    row = tx.one(_BY_ATTEMPT, attempt=attempt_id)
    if row is None:
        raise not_found("mailbox", attempt_id, "attempt_id", "see the task's attempts with ListDispatches")
    return row


def standing(tx: Tx, group: str) -> Origin:
    """A group's standing mailbox. Raises MAILBOX_NOT_FOUND."""
    row = tx.one(_STANDING, group=group)
    if row is None:
        raise not_found("mailbox", group, "group", "see the groups with ListGroups, or `nanoclaw dispatch groups`")
    return origin(row)


def add_standing(tx: Tx, group: str) -> Origin:
    """A group's standing mailbox, made if there is none."""
    row = tx.one(_STANDING, group=group)
    return origin(row) if row else _add(tx, "service:gateway", "", group, "", 0, "", "")


def add_attempt(
    tx: Tx, principal: str, attempt_id: str, group: str, task_id: str, fence: int, traceparent: str, trace_id: str
) -> Origin:
    """An attempt's mailbox, made if there is none.

    Raises CONFLICT ATTEMPT_EXISTS if it was opened for something else, PRECONDITION MAILBOX_CLOSED.
    """
    row = tx.one(_BY_ATTEMPT, attempt=attempt_id)
    if row is None:
        return _add(tx, principal, attempt_id, group, task_id, fence, traceparent, trace_id)
    if (row["group_name"], row["task_id"], row["fence"]) != (group, task_id, fence):
        raise NanoclawError(
            Kind.CONFLICT,
            "ATTEMPT_EXISTS",
            f"attempt {attempt_id!r} has a mailbox for another group, task or fence",
            next_step="give the new attempt an id of its own",
            group=row["group_name"],
            task_id=row["task_id"],
            fence=row["fence"],
        )
    if row["state"] != "OPEN":
        raise NanoclawError(
            Kind.PRECONDITION,
            "MAILBOX_CLOSED",
            f"the mailbox of attempt {attempt_id!r} is closed for good",
            next_step="start another attempt",
            closed_at=row["closed_at"],
        )
    return origin(row)


def close(tx: Tx, principal: str, row: sqlite3.Row, trace_id: str) -> None:
    """Marks a mailbox as closed; it is never opened again."""
    if not tx.run(_CLOSE, which=row["number"], moment=tx.now):
        return
    LOG.append(
        tx,
        action="close_mailbox",
        principal=principal,
        changes=[Change("ipc_mailboxes", {"number": row["number"]}, {"state": "CLOSED", "closed_at": tx.now})],
        task_id=row["task_id"],
        subject=row["group_name"],
        from_state="OPEN",
        to_state="CLOSED",
        attempt_id=row["attempt_id"],
        trace_id=trace_id,
    )


def last_file(tx: Tx, number: int) -> str:
    """When the last file that counted came from a mailbox, as TEXT; empty if none did."""
    row = tx.one(_LAST_FILE, which=number)
    return (row[0] if row else None) or ""


def _add(
    tx: Tx, principal: str, attempt_id: str, group: str, task_id: str, fence: int, traceparent: str, trace_id: str
) -> Origin:
    next_row = tx.one(_NEXT)
    assert next_row is not None
    number: int = next_row[0]
    values = {
        "attempt_id": attempt_id,
        "group_name": group,
        "task_id": task_id,
        "fence": fence,
        "traceparent": traceparent,
        "state": "OPEN",
        "opened_at": tx.now,
        "closed_at": "",
    }
    tx.run(_INSERT, number=number, **values)
    LOG.append(
        tx,
        action="open_mailbox",
        principal=principal,
        changes=[Change("ipc_mailboxes", {"number": number}, values)],
        task_id=task_id,
        subject=group,
        to_state="OPEN",
        attempt_id=attempt_id,
        trace_id=trace_id,
    )
    return Origin(number, group, attempt_id, task_id, TraceContext.parse(traceparent))
