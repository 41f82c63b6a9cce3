"""An override: an operator lets a task pass its gate without approval, and a P0 task reminds of the review."""

from collections.abc import Iterator
from typing import NamedTuple

from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import Kind, NanoclawError, Violation, denied, invalid
from nanoclaw_core.principal import Caller
from nanoclaw_governance.draft import new_task
from nanoclaw_governance.edit import Edit, edited
from nanoclaw_governance.form import MAX_TITLE, check_text, raise_invalid, required
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.product import check_admin
from nanoclaw_governance.relation import fenced
from nanoclaw_governance.task import Task, worked_on


class Pass(NamedTuple):
    """A request to let a task pass. review_deadline is TEXT; empty: none, as is the risk."""

    reason: str
    accepted_risk: str = ""
    review_deadline: str = ""


def decide(task: Task, wanted: Pass, follow_up_id: str, caller: Caller, policy: Policy, now: str) -> Edit:
    """Lets the task pass the gate it has now, for all its rounds; never by who worked behind it.

    Raises NOT_PERMITTED, STALE_ATTEMPT, SELF_APPROVAL, INVALID_FIELD, NO_GATE, and in strict mode OVERRIDE_MISSING_….
    """
    check_admin(caller, policy, f"override task {task.id}")
    for stale in fenced(task, caller):
        raise denied(stale.code, stale.message, stale.next_step, task=task.id)
    if worked_on(task, caller.principal):
        raise denied(
            "SELF_APPROVAL",
            f"{caller.principal} worked on task {task.id} and may not override it",
            "ask another admin",
            task=task.id,
        )
    raise_invalid([*required("reason", wanted.reason), *check_text("accepted_risk", wanted.accepted_risk)])
    if wanted.review_deadline and wanted.review_deadline <= now:
        raise invalid("review_deadline", "must lie ahead", "send a time in the future")
    missing = list(_missing(task, wanted, policy))
    if missing:
        first = missing[0]
        raise NanoclawError(Kind.PRECONDITION, first.code, first.message, violations=missing, task=task.id)
    recorded = {**wanted._asdict(), "by": caller.principal, "gate": task.gate, "follow_up_task_id": follow_up_id}
    return edited(task, {"override": canonical(recorded)}, policy, now)


def _missing(task: Task, wanted: Pass, policy: Policy) -> Iterator[Violation]:
    if task.gate == "NONE":
        yield Violation("NO_GATE", f"task {task.id} has no gate to pass", "move it on: no approval is needed")
    if policy.strict and not wanted.accepted_risk:
        yield Violation("OVERRIDE_MISSING_ACCEPTED_RISK", "the override names no accepted risk", "send accepted_risk")
    if policy.strict and not wanted.review_deadline:
        yield Violation("OVERRIDE_MISSING_REVIEW_DEADLINE", "the override has no deadline", "send review_deadline")


def follow_up(
    task: Task, wanted: Pass, task_id: str, caller: Caller, traceparent: str, policy: Policy, now: str
) -> Task:
    """The P0 task that reminds of the review; the company's where the product is not active any more."""
    by = f"by {wanted.review_deadline}" if wanted.review_deadline else "soon"
    living = task.product_status == "ACTIVE"
    return new_task(
        task_id,
        title=f"Review the override of {task.id}: {task.title}"[:MAX_TITLE],
        description=f"Review {by}. Reason: {wanted.reason}\nAccepted risk: {wanted.accepted_risk or 'not stated'}",
        task_type="OPS",
        priority="P0",
        scope=task.scope if living else "COMPANY",
        product_id=task.product_id if living else "",
        product_name=task.product_name if living else "",
        product_status=task.product_status if living else "",
        metadata=canonical({"override_of": task.id, "review_deadline": wanted.review_deadline}),
        traceparent=traceparent,
        policy_version=policy.version,
        created_by=caller.principal,
        created_at=now,
        updated_at=now,
    )
