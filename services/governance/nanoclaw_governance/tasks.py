"""Tasks on disk: read with what decisions need, created, and changed only from the version that was decided on."""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update

from nanoclaw_core.errors import Kind, NanoclawError, not_found
from nanoclaw_core.principal import Caller
from nanoclaw_governance import products
from nanoclaw_governance.act import Act
from nanoclaw_governance.draft import Draft, check_form, check_product, resolve_scope, to_task
from nanoclaw_governance.product import Product
from nanoclaw_governance.relation import is_visible
from nanoclaw_governance.tables import APPROVALS, ATTEMPTS, PRODUCTS, TASKS
from nanoclaw_governance.task import COLUMNS, Task, check_version
from nanoclaw_store import Change, Statement, Tx, prepare

PRODUCT_NAME = func.coalesce(PRODUCTS.c.name, "")
BOUND = (
    select(func.json_group_array(func.json_array(ATTEMPTS.c.group_name, ATTEMPTS.c.attempt_id, ATTEMPTS.c.fence)))
    .where(ATTEMPTS.c.task_id == TASKS.c.id)
    .correlate(TASKS)
    .scalar_subquery()
)
WHOLE = (
    *(TASKS.c[name] for name in COLUMNS),
    PRODUCT_NAME,
    func.coalesce(PRODUCTS.c.status, ""),
    func.coalesce(APPROVALS.c.approved_by, ""),
    BOUND,
)
"""The columns of a Task, in its order."""


def joined(source: Any) -> Any:
    """The source, which holds gov_tasks, with the tables that the rest of a Task comes from."""
    return source.outerjoin(PRODUCTS, PRODUCTS.c.id == TASKS.c.product_id).outerjoin(
        APPROVALS,
        (APPROVALS.c.task_id == TASKS.c.id) & (APPROVALS.c.gate == TASKS.c.gate) & (APPROVALS.c.voided_at == ""),
    )


WITH_ID = prepare(select(*WHOLE).select_from(joined(TASKS)).where(TASKS.c.id == bindparam("task_id")))
_IN_LISTS = "list them with ListTasks, or `nanoclaw task list`"
_IN_FILES = "gov_pipeline.json has those that are yours"
_EXISTS = prepare(select(TASKS.c.id).where(TASKS.c.id == bindparam("task_id")))
_INSERT = prepare(insert(TASKS))


@lru_cache(maxsize=256)
def _update(columns: tuple[str, ...]) -> Statement:
    """Compare-and-set: changes nothing unless version and state are the ones that were decided on."""
    return prepare(
        update(TASKS).where(
            TASKS.c.id == bindparam("decided_id"),
            TASKS.c.version == bindparam("decided_version"),
            TASKS.c.state == bindparam("decided_state"),
        ),
        columns,
    )


def get(tx: Tx, task_id: str) -> Task | None:
    """The task, whoever asks."""
    row = tx.one(WITH_ID, task_id=task_id)
    return Task(*row) if row is not None else None


def find(tx: Tx, task_id: str, caller: Caller) -> Task:
    """The task, if the caller may see it. Raises TASK_NOT_FOUND: who may not see it does not learn that it exists."""
    return shown(tx.one(WITH_ID, task_id=task_id), task_id, caller)


def shown(row: sqlite3.Row | None, task_id: str, caller: Caller) -> Task:
    """The same of a row that WITH_ID gave, or gave not."""
    task = Task(*row) if row is not None else None
    if task is None or not is_visible(task, caller):
        raise not_found("task", task_id, "task_id", _IN_FILES if caller.group else _IN_LISTS)
    return task


def change(
    tx: Tx,
    act: Act,
    task: Task,
    changes: Mapping[str, Any],
    action: str,
    *,
    from_state: str = "",
    to_state: str = "",
    reason: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Task:
    """Writes the columns and the fact; answers the task as it is now. Raises STALE_VERSION."""
    updated = tx.run(
        _update(tuple(changes)),
        decided_id=task.id,
        decided_version=task.version,
        decided_state=task.state,
        **changes,
    )
    if updated != 1:
        raise _overtaken(tx, task)
    changed = task._replace(**changes)
    act.record(
        tx,
        changed,
        action,
        (Change("gov_tasks", {"id": task.id}, changes),),
        from_state=from_state,
        to_state=to_state,
        reason=reason,
        facts=facts,
    )
    return changed


def _overtaken(tx: Tx, task: Task) -> NanoclawError:
    now = get(tx, task.id)
    refusal = check_version(now, task.version) if now else None
    return refusal or NanoclawError(
        Kind.CONFLICT,
        "STALE_VERSION",
        f"task {task.id} changed underneath",
        next_step="read the task again and decide anew",
    )


def create(tx: Tx, act: Act, draft: Draft, traceparent: str) -> Task:
    """A new task in INBOX. Raises what CreateTask answers."""
    check_form(draft)
    product = _product_of(tx, draft)
    scope, coerced = resolve_scope(draft.scope, product.id if product else "")
    task_id = draft.id or act.new_id()
    task = to_task(draft, task_id, product, act.caller.principal, traceparent, act.policy.version, tx.now)
    if tx.one(_EXISTS, task_id=task_id) is not None:
        raise NanoclawError(
            Kind.CONFLICT, "TASK_EXISTS", f"there is a task {task_id!r} already", next_step="choose another id"
        )
    put(tx, act, task)
    if coerced:
        act.record(tx, task, "coerce_scope", reason="no product was named", facts={"from": draft.scope, "to": scope})
    return task


def put(tx: Tx, act: Act, task: Task, facts: Mapping[str, Any] | None = None) -> None:
    """Inserts a task that was checked."""
    values = dict(zip(COLUMNS, task, strict=False))
    tx.run(_INSERT, **values)
    key: Sequence[str] = ("id",)
    image = {name: value for name, value in values.items() if name not in key}
    act.record(tx, task, "create", (Change("gov_tasks", {"id": task.id}, image),), to_state=task.state, facts=facts)


def _product_of(tx: Tx, draft: Draft) -> Product | None:
    """The product by id or name, or both. Raises UNKNOWN_PRODUCT, PRODUCT_KILLED, PRODUCT_MISMATCH."""
    if not draft.product_id and not draft.product:
        return None
    product = products.by_id(tx, draft.product_id) if draft.product_id else products.by_name(tx, draft.product)
    check_product(product, draft)
    if product is not None and draft.product and draft.product not in (product.name, product.id):
        raise NanoclawError(
            Kind.INVALID,
            "PRODUCT_MISMATCH",
            f"product {draft.product_id} is called {product.name!r}, not {draft.product!r}",
            next_step="send one of the two",
        )
    return product
