"""Edits on disk: every change of a task that is not a move, decided, written and logged in one unit."""

from collections.abc import Callable

from nanoclaw_governance import approvals, edit, tasks
from nanoclaw_governance.act import Act
from nanoclaw_governance.override import Pass, follow_up
from nanoclaw_governance.override import decide as decide_override
from nanoclaw_governance.task import Task
from nanoclaw_store import Tx

Decide = Callable[[Task], edit.Edit]


def _apply(
    tx: Tx, act: Act, task_id: str, expected: int | None, action: str, decide: Decide, reason: str = ""
) -> tuple[Task, bool]:
    task = tasks.find(tx, task_id, act.caller)
    edit.check(task, expected)
    changes, voids = decide(task)
    if changes is None:
        return task, False
    changed = tasks.change(tx, act, task, changes, action, reason=reason)
    return (approvals.void(tx, act, changed, voids) if voids else changed), True


def assign(tx: Tx, act: Act, task_id: str, expected: int | None, wanted: edit.Assignment) -> tuple[Task, bool]:
    """The task, and whether its assignment changed. Raises what AssignTask answers."""
    return _apply(
        tx, act, task_id, expected, "assign", lambda task: edit.assign(task, wanted, act.caller, act.policy, tx.now)
    )


def update(tx: Tx, act: Act, task_id: str, expected: int | None, wanted: edit.Details) -> tuple[Task, bool]:
    """The task, and whether anything about it changed. Raises what UpdateTask answers."""
    return _apply(
        tx, act, task_id, expected, "update", lambda task: edit.update(task, wanted, act.caller, act.policy, tx.now)
    )


def add_evidence(tx: Tx, act: Act, task_id: str, expected: int | None, link: str, note: str) -> Task:
    """The task with one more link. Raises what AddEvidence answers."""
    task, _ = _apply(
        tx,
        act,
        task_id,
        expected,
        "evidence",
        lambda task: edit.add_evidence(task, link, note, act.caller, act.policy, tx.now),
        reason=link,
    )
    return task


def set_checklist(tx: Tx, act: Act, task_id: str, expected: int | None, wanted: edit.Checklist) -> tuple[Task, bool]:
    """The task, and whether its checklist or its flags changed. Raises what SetChecklist answers."""
    return _apply(
        tx,
        act,
        task_id,
        expected,
        "checklist",
        lambda task: edit.set_checklist(task, wanted, act.caller, act.policy, tx.now),
    )


def override(tx: Tx, act: Act, task_id: str, expected: int | None, wanted: Pass, traceparent: str) -> tuple[Task, Task]:
    """The task that may pass now, and the P0 task that reminds of the review. Raises what OverrideTask answers."""
    follow_up_id = act.new_id()
    task, _ = _apply(
        tx,
        act,
        task_id,
        expected,
        "override",
        lambda task: decide_override(task, wanted, follow_up_id, act.caller, act.policy, tx.now),
        reason=wanted.reason,
    )
    reminder = follow_up(task, wanted, follow_up_id, act.caller, traceparent, act.policy, tx.now)
    tasks.put(tx, act, reminder, {"follow_up_of": task_id, "review_deadline": wanted.review_deadline})
    return task, reminder
