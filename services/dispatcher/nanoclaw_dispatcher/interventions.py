"""What a person does to a dispatch: retry it, cancel it, watch it."""

import sqlite3

from nanoclaw_core.errors import Kind, NanoclawError, invalid
from nanoclaw_core.principal import Caller
from nanoclaw_dispatcher import attempts, dispatches, leases, listing, tables
from nanoclaw_dispatcher.blocking import read_or_none
from nanoclaw_dispatcher.dispatch import waits
from nanoclaw_dispatcher.lifecycle import DispatchState
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.task import Task
from nanoclaw_store import Tx


async def read_task(means: Means, dispatch: sqlite3.Row) -> Task | None:
    """The dispatch's task as it is now; None where it is gone."""
    reading = await read_or_none(means, dispatch["task_id"])
    return reading[0] if reading else None


def retry(tx: Tx, means: Means, dispatch_id: str, task: Task | None, caller: Caller, request_id: str) -> None:
    """Makes a closed dispatch wait for a further attempt, or one that pauses go on at once; failures are forgiven.

    Raises PRECONDITION: TASK_MOVED where the task does not wait for it any more, DISPATCH_ALIVE where an attempt of
    the group is alive on the task, DISPATCH_DONE.
    """
    row = listing.find(tx, dispatch_id).dispatch
    if row["state"] == DispatchState.DONE:
        raise _refused(row, "DISPATCH_DONE", "is done", "nothing is left to be tried")
    if task is None or not waits(task, dispatches.rule_view(row)):
        state = task.state if task is not None else "gone"
        raise _refused(
            row,
            "TASK_MOVED",
            f"is over: its task is {state}",
            "move it from BLOCKED to TASK_STATE_DOING: it starts anew",
        )
    others = [d for d in dispatches.of_task(tx, task.id) if d.is_open and d.group == row["group_name"]]
    if any(d.id != row["id"] for d in others) or tx.one(attempts.LIVE_OF_DISPATCH, dispatch=row["id"]):
        raise _refused(row, "DISPATCH_ALIVE", "has an attempt alive on its task", "cancel that one first, or wait")
    dispatches.reopen(tx, row, principal=caller.principal, via=caller.via, request_ref=request_id)
    leases.take(tx, row["id"], owner=means.instance, seconds=means.limits.lease_seconds)


def cancel(tx: Tx, dispatch_id: str, caller: Caller, reason: str, request_id: str) -> bool:
    """Records the wish; False where it is closed already, or cancelled before. Raises INVALID_FIELD for no reason."""
    if not reason.strip() or len(reason) > 2000:
        raise invalid("reason", "must be 1 to 2000 characters", "say why it is cancelled: the task is blocked with it")
    row = listing.find(tx, dispatch_id).dispatch
    if row["state"] not in (DispatchState.ENQUEUED, DispatchState.STARTED) or row["cancelled_by"]:
        return False
    dispatches.request_cancel(
        tx, row, principal=caller.principal, via=caller.via, reason=reason, request_ref=request_id
    )
    return True


def check_seq(tx: Tx, seq: int) -> None:
    """Raises CURSOR_INVALID for a place beyond the head of the dispatcher's log."""
    head = tables.LOG.head(tx)
    if seq > head.seq:
        raise NanoclawError(
            Kind.INVALID,
            "CURSOR_INVALID",
            f"after_seq: the log of dispatches ends at {head.seq}, before {seq}",
            next_step="watch from 0, or from the head",
            head_seq=head.seq,
        )


def changes(tx: Tx, after: int, most: int) -> list[tuple[sqlite3.Row, listing.Found | None]]:
    """Rows of the log past `after`, each with the dispatch that it is about as it is now; None for other facts."""
    found = []
    for row in tables.LOG.after(tx, after, most):
        about = tx.one(dispatches.BY_ID, id=row["subject"])
        found.append((row, listing.find(tx, about["id"]) if about is not None else None))
    return found


def _refused(row: sqlite3.Row, reason: str, what: str, next_step: str) -> NanoclawError:
    return NanoclawError(
        Kind.PRECONDITION, reason, f"dispatch {row['id']} {what}", next_step=next_step, state=row["state"]
    )
