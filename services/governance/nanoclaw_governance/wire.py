"""Answers: what is inside, as the messages of the proto."""

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Violation
from nanoclaw_governance import names
from nanoclaw_governance.approval import Approval, approver_group
from nanoclaw_governance.policy import (
    APPROVER_GROUPS,
    MAX_REWORK_ROUNDS,
    NEEDS_REASON,
    PERMITTED,
    REQUIREMENTS,
    STRICT_REQUIREMENTS,
    Policy,
    digest,
)
from nanoclaw_governance.product import Product
from nanoclaw_governance.task import Task
from nanoclaw_rpc.times import to_optional, to_timestamp

_STATES = names.STATES.numbers
_TYPES = names.TYPES.numbers
_PRIORITIES = names.PRIORITIES.numbers
_SCOPES = names.SCOPES.numbers
_GATES = names.GATES.numbers
_RISKS = names.RISKS.numbers


def task_message(task: Task) -> pb.Task:
    """A task, as everybody who may see it sees it."""
    message = pb.Task(
        id=task.id,
        title=task.title,
        description=task.description,
        task_type=_TYPES[task.task_type],
        state=_STATES[task.state],
        priority=_PRIORITIES[task.priority],
        product_id=task.product_id,
        product=task.product_name,
        scope=_SCOPES[task.scope],
        assigned_group=task.assigned_group,
        executor=task.executor,
        gate=_GATES[task.gate],
        human_gate=bool(task.human_gate),
        risk=_RISKS[task.risk],
        version=task.version,
        round=task.round,
        rework_count=task.rework_count,
        previous_state=_STATES[task.previous_state],
        state_reason=task.state_reason,
        review_summary=task.review_summary,
        docs_updated=bool(task.docs_updated),
        blocked_from=_STATES[task.blocked_from],
        blocked_by=task.blocked_by,
        approver_group=approver_group(task),
        metadata_json=task.metadata,
        traceparent=task.traceparent,
        policy_version=task.policy_version,
        created_by=task.created_by,
        created_at=to_timestamp(task.created_at),
        updated_at=to_timestamp(task.updated_at),
    )
    # Most tasks have few of these.
    if task.executors != "[]":
        message.executors.extend(task.has_executed)
    if task.evidence_required is not None:
        message.evidence_required = bool(task.evidence_required)
    if task.checklist != "[]":
        message.checklist.extend(pb.ChecklistItem(**item) for item in json.loads(task.checklist))
    if task.evidence != "[]":
        message.evidence.extend(evidence_messages(task))
    if task.override:
        message.override.CopyFrom(_override(json.loads(task.override)))
    if task.attempts != "[]":
        for group, attempt_id, fence in json.loads(task.attempts):
            message.attempts.add(group=group, attempt_id=attempt_id, fence=fence)
    return message


def evidence_messages(task: Task) -> Iterable[pb.Evidence]:
    """The task's evidence."""
    for item in json.loads(task.evidence):
        yield pb.Evidence(**{**item, "added_at": to_timestamp(item["added_at"])})


def _override(recorded: dict[str, Any]) -> pb.Override:
    return pb.Override(
        by=recorded["by"],
        reason=recorded["reason"],
        accepted_risk=recorded["accepted_risk"],
        review_deadline=to_optional(recorded["review_deadline"]),
        follow_up_task_id=recorded["follow_up_task_id"],
    )


def product_message(product: Product) -> pb.Product:
    """A product."""
    return pb.Product(
        id=product.id,
        name=product.name,
        description=product.description,
        status=names.PRODUCT_STATUSES.numbers[product.status],
        risk=_RISKS[product.risk],
        version=product.version,
        created_at=to_timestamp(product.created_at),
        updated_at=to_timestamp(product.updated_at),
    )


def approval_message(approval: Approval) -> pb.Approval:
    """An approval."""
    return pb.Approval(
        id=approval.id,
        task_id=approval.task_id,
        gate=_GATES[approval.gate],
        approved_by=approval.approved_by,
        notes=approval.notes,
        round=approval.round,
        task_version=approval.task_version,
        digest=approval.digest,
        created_at=to_timestamp(approval.created_at),
        voided_at=to_optional(approval.voided_at),
        void_reason=approval.void_reason,
    )


def activity_message(row: sqlite3.Row) -> pb.Activity:
    """A row of the log."""
    return pb.Activity(
        cursor=pb.Cursor(epoch=row["epoch"], seq=row["seq"]),
        task_id=row["task_id"],
        action=row["action"],
        from_state=_STATES[row["from_state"]],
        to_state=_STATES[row["to_state"]],
        principal=row["principal"],
        via=row["via"],
        attempt_id=row["attempt_id"],
        reason=row["reason"],
        change_json=row["change"],
        policy_version=row["policy_version"],
        request_ref=row["request_ref"],
        trace_id=row["trace_id"],
        created_at=to_timestamp(row["created_at"]),
        prev_hash=row["prev_hash"],
        hash=row["hash"],
    )


def violation_message(violation: Violation) -> pb.Violation:
    """A rule that a request breaks."""
    return pb.Violation(code=violation.code, message=violation.message, next_step=violation.next_step)


def policy_message(policy: Policy) -> pb.GetPolicyResponse:
    """The tables that decisions follow, and the settings that hold."""
    edges = [
        pb.Edge(
            from_state=_STATES[source],
            to_state=_STATES[to],
            permitted=sorted(relation.value for relation in permitted),
            requirements=[
                *(("MISSING_REASON",) if (source, to) in NEEDS_REASON else ()),
                *REQUIREMENTS.get(to, ()),
                *(STRICT_REQUIREMENTS.get(to, ()) if policy.strict else ()),
            ],
        )
        for (source, to), permitted in PERMITTED.items()
    ]
    return pb.GetPolicyResponse(
        policy_version=policy.version,
        digest=digest(),
        strict=policy.strict,
        trust_main=policy.trust_main,
        edges=edges,
        gates=[pb.GateRule(gate=_GATES[gate], approver_group=group) for gate, group in APPROVER_GROUPS.items()],
        max_rework_rounds=MAX_REWORK_ROUNDS,
    )
