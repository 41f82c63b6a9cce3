"""Attempts on disk: which one may act for a group on a task; a later one fences the earlier."""

from typing import NamedTuple

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.sqlite import insert

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import check_group, check_name
from nanoclaw_governance import tasks
from nanoclaw_governance.act import Act
from nanoclaw_governance.tables import ATTEMPTS
from nanoclaw_governance.task import Task
from nanoclaw_store import Change, Tx, prepare

_BOUND = prepare(
    select(ATTEMPTS.c.attempt_id, ATTEMPTS.c.fence).where(
        ATTEMPTS.c.task_id == bindparam("task_id"), ATTEMPTS.c.group_name == bindparam("group_name")
    )
)
_upsert = insert(ATTEMPTS)
_BIND = prepare(
    _upsert.on_conflict_do_update(
        index_elements=[ATTEMPTS.c.task_id, ATTEMPTS.c.group_name],
        set_={"attempt_id": _upsert.excluded.attempt_id, "fence": _upsert.excluded.fence},
    )
)


class Binding(NamedTuple):
    """Which attempt acts for a group. fence: above every one bound before."""

    group: str
    attempt_id: str
    fence: int


def bind(tx: Tx, act: Act, task_id: str, binding: Binding) -> Task:
    """From now on this attempt acts for the group on the task; the task's version does not move.

    Binding the same attempt again changes nothing. Raises STALE_FENCE for a fence that does not rise, INVALID_FIELD.
    """
    group, attempt_id, fence = binding
    check_group("group", group)
    check_name("attempt_id", attempt_id)
    task = tasks.find(tx, task_id, act.caller)
    bound = tx.one(_BOUND, task_id=task_id, group_name=group)
    if bound is not None and (bound[0], bound[1]) == (attempt_id, fence):
        return task
    if bound is not None and fence <= bound[1]:
        raise NanoclawError(
            Kind.CONFLICT,
            "STALE_FENCE",
            f"attempt {bound[0]} is bound to task {task_id} and group {group} with fence {bound[1]}, not below {fence}",
            next_step="a later attempt has taken over: leave it the work",
            bound=bound[0],
            fence=bound[1],
        )
    values = {"attempt_id": attempt_id, "fence": fence}
    key = {"task_id": task_id, "group_name": group}
    tx.run(_BIND, **key, **values)
    now_bound = tasks.find(tx, task_id, act.caller)
    act.record(
        tx,
        now_bound,
        "bind_attempt",
        (Change("gov_attempts", key, values),),
        subject=attempt_id,
        facts={"group": group},
    )
    return now_bound
