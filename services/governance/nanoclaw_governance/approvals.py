"""Approvals on disk: given, listed, and voided; the rows stay."""

from collections.abc import Sequence

from sqlalchemy import bindparam, insert, select, update

from nanoclaw_governance import rates, tasks
from nanoclaw_governance.act import Act
from nanoclaw_governance.approval import Approval, decide, seen
from nanoclaw_governance.form import check_text, raise_invalid
from nanoclaw_governance.tables import APPROVALS
from nanoclaw_governance.task import Task
from nanoclaw_store import Change, Tx, prepare

_INSERT = prepare(insert(APPROVALS))
_LIVE = prepare(select(APPROVALS).where(APPROVALS.c.task_id == bindparam("task_id"), APPROVALS.c.voided_at == ""))
_VOID = prepare(
    update(APPROVALS)
    .where(APPROVALS.c.task_id == bindparam("of_task"), APPROVALS.c.voided_at == "")
    .values(voided_at=bindparam("now"), void_reason=bindparam("why"))
    .returning(APPROVALS.c.id)
)
_PAGE = prepare(
    select(APPROVALS)
    .where(
        APPROVALS.c.task_id == bindparam("task_id"),
        APPROVALS.c.id > bindparam("after"),
        (bindparam("live_only") == 0) | (APPROVALS.c.voided_at == ""),
    )
    .order_by(APPROVALS.c.id)
    .limit(bindparam("most"))
)
_LAST = prepare(
    select(APPROVALS)
    .where(APPROVALS.c.task_id == bindparam("task_id"))
    .order_by(APPROVALS.c.id.desc())
    .limit(bindparam("most"))
)
_PAGE_OF_ALL = prepare(
    select(APPROVALS)
    .where(
        APPROVALS.c.id > bindparam("after"),
        (bindparam("live_only") == 0) | (APPROVALS.c.voided_at == ""),
    )
    .order_by(APPROVALS.c.id)
    .limit(bindparam("most"))
)


def approve(
    tx: Tx, act: Act, task_id: str, gate: str, notes: str, expected_version: int | None
) -> tuple[Approval, Task, bool]:
    """The caller's approval of what is there now, the task, and whether it is new. Raises what ApproveGate answers."""
    raise_invalid(list(check_text("notes", notes)))
    task = tasks.find(tx, task_id, act.caller)
    verdict = decide(task, gate, act.caller, expected_version)
    if verdict.refusal:
        raise verdict.refusal
    if not verdict.changed:
        (standing,) = [approval for approval in live(tx, task_id) if approval.gate == gate]
        return standing, task, False
    rates.check(tx, act.caller, "approve", act.policy)
    approval = Approval(
        id=act.new_id(),
        task_id=task_id,
        gate=gate,
        approved_by=act.caller.principal,
        notes=notes,
        round=task.round,
        task_version=task.version,
        digest=seen(task),
        created_at=tx.now,
    )
    values = approval._asdict()
    tx.run(_INSERT, **values)
    key = {"id": values.pop("id")}
    approved = task._replace(approved_by=approval.approved_by)
    changes = (Change("gov_approvals", key, values),)
    act.record(tx, approved, "approve", changes, subject=approval.id, reason=notes)
    return approval, approved, True


def void(tx: Tx, act: Act, task: Task, why: str) -> Task:
    """Voids every live approval of the task, each with a fact; answers the task without them."""
    for row in tx.all(_VOID, of_task=task.id, now=tx.now, why=why):
        image = {"voided_at": tx.now, "void_reason": why}
        changes = (Change("gov_approvals", {"id": row[0]}, image),)
        act.record(tx, task, "void_approval", changes, subject=row[0], reason=why)
    return task._replace(approved_by="") if task.approved_by else task


def live(tx: Tx, task_id: str) -> list[Approval]:
    """The approvals that count."""
    return [Approval(*row) for row in tx.all(_LIVE, task_id=task_id)]


def last(tx: Tx, task_id: str, most: int) -> list[Approval]:
    """The last approvals of the task, oldest first."""
    return [Approval(*row) for row in tx.all(_LAST, task_id=task_id, most=most)][::-1]


def page(tx: Tx, task_id: str, live_only: bool, after: str, most: int) -> Sequence[Approval]:
    """Approvals by id, so in the order they were given to the millisecond; of one task, or (task_id empty) of all."""
    if task_id:
        rows = tx.all(_PAGE, task_id=task_id, live_only=int(live_only), after=after, most=most)
    else:
        rows = tx.all(_PAGE_OF_ALL, live_only=int(live_only), after=after, most=most)
    return [Approval(*row) for row in rows]
