"""Requests: the messages of the proto, as what is asked inside; malformed ones are refused here."""

from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import denied
from nanoclaw_core.principal import Caller
from nanoclaw_governance import names
from nanoclaw_governance.attempts import Binding
from nanoclaw_governance.draft import Draft
from nanoclaw_governance.edit import Assignment, Checklist, Details
from nanoclaw_governance.form import check_text, raise_invalid
from nanoclaw_governance.listing import Filter
from nanoclaw_governance.override import Pass
from nanoclaw_governance.product import ProductChange
from nanoclaw_governance.transition import Move
from nanoclaw_rpc.times import from_timestamp


def optional(request: Any, field: str) -> Any:
    """The value of a field that may be unset, None if it is."""
    return getattr(request, field) if request.HasField(field) else None


def draft_of(request: pb.CreateTaskRequest) -> Draft:
    """What CreateTask asks for."""
    return Draft(
        title=request.title,
        task_type=names.TYPES.name("task_type", request.task_type),
        description=request.description,
        priority=names.PRIORITIES.name("priority", request.priority),
        product_id=request.product_id,
        product=request.product,
        scope=names.SCOPES.name("scope", request.scope),
        assigned_group=request.assigned_group,
        gate=names.GATES.name("gate", request.gate),
        human_gate=request.human_gate,
        risk=names.RISKS.name("risk", request.risk),
        metadata=request.metadata_json,
        id=request.id,
        executor=request.executor,
    )


def move_of(request: pb.TransitionTaskRequest | pb.ExplainTransitionRequest) -> Move:
    """What TransitionTask asks for, or asks about."""
    if len(request.reason) + len(request.review_summary) > 1024:  # most are short, and the check costs
        raise_invalid([*check_text("reason", request.reason), *check_text("review_summary", request.review_summary)])
    return Move(
        names.STATES.required("to_state", request.to_state),
        request.reason,
        request.review_summary,
        optional(request, "expected_version"),
    )


def binding_of(request: pb.TransitionTaskRequest, caller: Caller) -> Binding | None:
    """Which attempt is bound with the move, if one is. Raises NOT_PERMITTED for all but the dispatcher."""
    if not request.HasField("bind"):
        return None
    if not caller.is_service("dispatcher"):
        raise denied("NOT_PERMITTED", "only the dispatcher binds attempts", "leave bind out", field="bind")
    return Binding(request.bind.group, request.bind.attempt_id, request.bind.fence)


def filter_of(request: pb.ListTasksRequest) -> Filter:
    """What ListTasks is restricted to."""
    return Filter(
        tuple(names.STATES.required("states", state) for state in request.states),
        request.assigned_group,
        request.product_id,
        names.GATES.name("gate", request.gate),
        names.PRIORITIES.name("priority", request.priority),
    )


def details_of(request: pb.UpdateTaskRequest) -> Details:
    """What UpdateTask changes."""
    return Details(
        title=optional(request, "title"),
        description=optional(request, "description"),
        priority=names.PRIORITIES.name("priority", request.priority) or None,
        gate=names.GATES.name("gate", request.gate) or None,
        human_gate=optional(request, "human_gate"),
        risk=names.RISKS.name("risk", request.risk) or None,
    )


def assignment_of(request: pb.AssignTaskRequest) -> Assignment:
    """What AssignTask asks for."""
    return Assignment(request.assigned_group, request.executor)


def checklist_of(request: pb.SetChecklistRequest) -> Checklist:
    """What SetChecklist says. An empty list beside a flag leaves the items as they are; alone it clears them."""
    flags = optional(request, "evidence_required"), optional(request, "docs_updated")
    items = [(item.text, item.done) for item in request.checklist]
    return Checklist(items if items or flags == (None, None) else None, *flags)


def pass_of(request: pb.OverrideTaskRequest) -> Pass:
    """What OverrideTask decides."""
    deadline = optional(request, "review_deadline")
    return Pass(
        request.reason,
        request.accepted_risk,
        from_timestamp(deadline, "review_deadline") if deadline is not None else "",
    )


def product_change_of(request: pb.UpdateProductRequest) -> ProductChange:
    """What UpdateProduct changes."""
    return ProductChange(
        name=optional(request, "name"),
        description=optional(request, "description"),
        status=names.PRODUCT_STATUSES.name("status", request.status) or None,
        risk=names.RISKS.name("risk", request.risk) or None,
        expected_version=optional(request, "expected_version"),
    )
