"""What a state needs of a task that wants to enter it: every violation at once, each with its next step."""

import json
from collections.abc import Iterator
from typing import Any

from nanoclaw_core.errors import Violation
from nanoclaw_core.principal import Caller
from nanoclaw_governance.approval import ask, check_approvable
from nanoclaw_governance.policy import DOCS_REQUIRED, NEEDS_REASON, Policy
from nanoclaw_governance.product import REVIVE
from nanoclaw_governance.task import Task

_OVERRIDE_FIELDS = (
    ("by", "OVERRIDE_MISSING_BY", "who decided it"),
    ("reason", "OVERRIDE_MISSING_REASON", "a reason"),
    ("accepted_risk", "OVERRIDE_MISSING_ACCEPTED_RISK", "the risk that is accepted"),
    ("review_deadline", "OVERRIDE_MISSING_REVIEW_DEADLINE", "a review deadline"),
)


def unmet(task: Task, to: str, reason: str, summary: str, caller: Caller, policy: Policy) -> Iterator[Violation]:
    """Every requirement of the edge and of its target that does not hold.

    summary: what the task's review summary would be after the move.
    """
    if not reason and (task.state, to) in NEEDS_REASON:
        yield Violation("MISSING_REASON", f"{task.state} to {to} needs a reason", "send a reason")
    if to == "DOING":
        yield from _to_doing(task, policy)
    elif to == "REVIEW":
        yield from _to_review(task, summary, caller, policy)
    elif to == "DONE":
        yield from _to_done(task, policy)


def _to_doing(task: Task, policy: Policy) -> Iterator[Violation]:
    if not task.assigned_group:
        yield Violation("NO_ASSIGNED_GROUP", f"task {task.id} is assigned to no group", "assign the task to a group")
    if task.product_id and task.product_status != "ACTIVE":
        yield Violation(
            f"PRODUCT_{task.product_status}",
            f"product {task.product_name} is {task.product_status.lower()}",
            "wait until the product is PRODUCT_STATUS_ACTIVE again" if task.product_status == "PAUSED" else REVIVE,
        )
    if policy.strict:
        if task.checklist == "[]":
            yield _no_checklist(task)
        if task.evidence_required is None:
            yield Violation(
                "EVIDENCE_REQUIRED_NOT_SET",
                f"nobody said whether task {task.id} needs evidence",
                "call SetChecklist with evidence_required true or false",
            )


def _to_review(task: Task, summary: str, caller: Caller, policy: Policy) -> Iterator[Violation]:
    if policy.strict and not summary:
        yield Violation(
            "MISSING_REVIEW_SUMMARY", "the work is handed in without a summary", "send review_summary: what was done"
        )
    if task.state == "DOING" and caller.group:
        # Who hands in becomes an executor: that must not take the last one who could approve.
        executors = {*task.has_executed, caller.principal}
        if violation := check_approvable(task.gate, task.human_gate, task.assigned_group, executors):
            yield violation


def _to_done(task: Task, policy: Policy) -> Iterator[Violation]:
    override = json.loads(task.override) if task.override else {}
    overridden = override.get("gate") == task.gate
    if task.gate != "NONE" and not overridden and not _is_approved(task):
        yield Violation(
            "GATE_NOT_APPROVED",
            f"gate {task.gate} of task {task.id} is not approved",
            f"approve GATE_{task.gate} of it with ApproveGate: {ask(task)} can",
        )
    if policy.strict:
        yield from _strictly_done(task, override if overridden else {})


def _is_approved(task: Task) -> bool:
    # An approval that its giver outlived as an executor counts for nothing, however that came about.
    return task.approved_by != "" and task.approved_by not in task.has_executed


def _strictly_done(task: Task, override: dict[str, Any]) -> Iterator[Violation]:
    checklist = json.loads(task.checklist)
    if not checklist:
        yield _no_checklist(task)
    if left := [item["text"] for item in checklist if not item["done"]]:
        yield Violation(
            "DOD_INCOMPLETE",
            f"{len(left)} of {len(checklist)} checklist items are not done",
            f"finish {left[0]!r} and the rest, then call SetChecklist",
        )
    if task.task_type in DOCS_REQUIRED and not task.docs_updated:
        yield Violation(
            "DOCS_NOT_UPDATED",
            f"a {task.task_type} task is done with its docs updated",
            "update the docs, then call SetChecklist with docs_updated",
        )
    if task.evidence_required and task.evidence == "[]":
        yield Violation(
            "MISSING_EVIDENCE_LINK", f"task {task.id} needs evidence", "call AddEvidence with a link to the evidence"
        )
    if override:
        for field, code, what in _OVERRIDE_FIELDS:
            if not override.get(field):
                yield Violation(code, f"the override of task {task.id} lacks {what}", f"override again with {what}")


def _no_checklist(task: Task) -> Violation:
    return Violation(
        "MISSING_DOD_CHECKLIST",
        f"task {task.id} has no definition-of-done checklist",
        "call SetChecklist with what done means",
    )
