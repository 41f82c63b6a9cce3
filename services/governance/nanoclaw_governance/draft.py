"""A draft: what somebody wants created as a task, checked before it is one."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from nanoclaw_core.errors import Kind, NanoclawError, Violation
from nanoclaw_core.ids import check_group, check_name
from nanoclaw_governance.approval import check_approvable
from nanoclaw_governance.form import check_text, check_title, raise_invalid, violation
from nanoclaw_governance.product import REVIVE, Product
from nanoclaw_governance.task import COLUMNS, Gate, Priority, Risk, Scope, Task, TaskType

CHOOSE_GATE = f"choose one of {', '.join(f'GATE_{gate}' for gate in Gate if gate != Gate.NONE)}"
_CHOOSE_TYPE = f"choose one of {', '.join(f'TASK_TYPE_{one}' for one in TaskType)}"


class Draft(NamedTuple):
    """What CreateTask asks for; enums by name, empty where nothing was said."""

    title: str
    task_type: str
    description: str = ""
    priority: str = ""
    product_id: str = ""
    product: str = ""
    scope: str = ""
    assigned_group: str = ""
    gate: str = ""
    human_gate: bool = False
    risk: str = ""
    metadata: str = ""
    id: str = ""
    executor: str = ""


def check_form(draft: Draft) -> None:
    """Everything that is wrong with the draft itself, at once. Raises INVALID_FIELD."""
    raise_invalid(list(_form(draft)))


def _form(draft: Draft) -> Iterator[Violation]:
    yield from check_title(draft.title)
    yield from check_text("description", draft.description)
    yield from check_text("executor", draft.executor)
    yield from check_text("metadata_json", draft.metadata)
    if draft.task_type not in TaskType.__members__:
        yield violation("task_type", "is required", _CHOOSE_TYPE)
    if draft.metadata and not _is_object(draft.metadata):
        yield violation("metadata_json", "must be a JSON object", "send an object such as {}")
    if draft.human_gate and draft.gate in ("", Gate.NONE):
        yield violation("human_gate", "needs a gate", CHOOSE_GATE)
    for check, field, value in ((check_name, "id", draft.id), (check_group, "assigned_group", draft.assigned_group)):
        try:
            if value:
                check(field, value)
        except NanoclawError as error:
            yield from error.violations


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=_refuse_constant), dict)
    except (ValueError, RecursionError):
        return False


def resolve_scope(scope: str, product_id: str) -> tuple[str, bool]:
    """The scope that holds, and whether it was coerced: PRODUCT without a product is COMPANY.

    Raises SCOPE_MISMATCH for COMPANY with a product.
    """
    if product_id and scope == Scope.COMPANY:
        raise NanoclawError(
            Kind.INVALID,
            "SCOPE_MISMATCH",
            f"scope COMPANY excludes product {product_id}",
            next_step="leave out the product, or choose SCOPE_PRODUCT",
        )
    if product_id:
        return Scope.PRODUCT.value, False
    return Scope.COMPANY.value, scope == Scope.PRODUCT


def check_product(product: Product | None, draft: Draft) -> None:
    """Refuses what a new task can't belong to. Raises UNKNOWN_PRODUCT and PRODUCT_KILLED."""
    if product is None:
        field = "product_id" if draft.product_id else "product"
        wanted = draft.product_id or draft.product
        raise NanoclawError(
            Kind.NOT_FOUND,
            "UNKNOWN_PRODUCT",
            f"{field}: there is no product {wanted!r}",
            next_step="create it with CreateProduct, or choose one that ListProducts (`nanoclaw product list`) shows",
            field=field,
            name=wanted,
        )
    if product.status == "KILLED":
        raise NanoclawError(
            Kind.PRECONDITION,
            "PRODUCT_KILLED",
            f"product {product.name} is killed",
            violations=[Violation("PRODUCT_KILLED", f"product {product.name} is killed", REVIVE)],
            product=product.id,
        )


def to_task(
    draft: Draft, task_id: str, product: Product | None, caller: str, traceparent: str, version: str, now: str
) -> Task:
    """The task in INBOX that the draft becomes. Raises SCOPE_MISMATCH, NO_POSSIBLE_APPROVER."""
    product_id = product.id if product else ""
    scope, _ = resolve_scope(draft.scope, product_id)
    gate = draft.gate or Gate.NONE.value
    refuse_unapprovable(gate, draft.human_gate, draft.assigned_group, ())
    return new_task(
        task_id,
        title=draft.title,
        description=draft.description,
        task_type=draft.task_type,
        priority=draft.priority or Priority.P2.value,
        product_id=product_id,
        scope=scope,
        assigned_group=draft.assigned_group,
        executor=draft.executor,
        gate=gate,
        human_gate=int(draft.human_gate),
        risk=draft.risk or Risk.NORMAL.value,
        metadata=draft.metadata or "{}",
        traceparent=traceparent,
        policy_version=version,
        created_by=caller,
        created_at=now,
        updated_at=now,
        product_name=product.name if product else "",
        product_status=product.status if product else "",
    )


def new_task(task_id: str, **fields: Any) -> Task:
    """A task in INBOX that nothing has happened to yet, with these fields."""
    return Task(**{**_BLANK, "id": task_id, **fields})


_BLANK: dict[str, Any] = {
    **dict.fromkeys(COLUMNS, ""),
    "state": "INBOX",
    "gate": "NONE",
    "human_gate": 0,
    "risk": "NORMAL",
    "version": 1,
    "round": 0,
    "rework_count": 0,
    "checklist": "[]",
    "evidence_required": None,
    "docs_updated": 0,
    "evidence": "[]",
    "executors": "[]",
    "metadata": "{}",
}


def refuse_unapprovable(gate: str, human_gate: bool | int, assigned_group: str, executors: Any) -> None:
    """Refuses what would leave nobody to approve. Raises NO_POSSIBLE_APPROVER."""
    if violation := check_approvable(gate, human_gate, assigned_group, executors):
        raise NanoclawError(
            Kind.PRECONDITION,
            violation.code,
            violation.message,
            violations=[violation],
            gate=gate,
        )
