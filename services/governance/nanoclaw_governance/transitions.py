"""Transitions on disk: a move decided, written and logged in one unit, or explained without a trace."""

from nanoclaw_core.principal import Caller
from nanoclaw_governance import approvals, rates, tasks
from nanoclaw_governance.act import Act
from nanoclaw_governance.explanation import Explanation, explain
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.task import Task
from nanoclaw_governance.transition import Move, decide
from nanoclaw_store import Tx


def move(tx: Tx, act: Act, task_id: str, wanted: Move) -> tuple[Task, bool]:
    """The task as it is now, and whether it moved. Raises what TransitionTask answers."""
    task = tasks.find(tx, task_id, act.caller)
    decision = decide(task, wanted, act.caller, act.policy, tx.now)
    if decision.refusal:
        raise decision.refusal
    changes = decision.changes
    if changes is None:
        return task, False
    rates.check(tx, act.caller, "transition", act.policy)
    moved = tasks.change(
        tx, act, task, changes, "transition", from_state=task.state, to_state=wanted.to, reason=wanted.reason
    )
    if task.state == "DOING" and changes.get("review_summary"):
        act.record(tx, moved, "execution_summary", reason=moved.review_summary)
    if decision.voids:
        moved = approvals.void(tx, act, moved, decision.voids)
    return moved, True


def explain_move(tx: Tx, viewer: Caller, subject: Caller, policy: Policy, task_id: str, wanted: Move) -> Explanation:
    """What `move` would answer the subject, as far as the viewer may know. Raises TASK_NOT_FOUND; writes nothing."""
    task = tasks.find(tx, task_id, viewer)
    limit = rates.exceeded(tx, subject, "transition", policy)
    return explain(task, wanted, subject, policy, (limit,) if limit else ())
