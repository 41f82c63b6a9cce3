"""A task: its states, the table of its moves, and the facts that decisions about it rest on."""

import enum
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import Kind, NanoclawError


class State(enum.StrEnum):
    """Where a task stands."""

    INBOX = "INBOX"
    """New, nobody has looked at it yet."""
    TRIAGED = "TRIAGED"
    """Understood and wanted; may lack an assignee."""
    READY = "READY"
    """Could be started now; the dispatcher takes it as soon as a group is assigned and a slot is free."""
    DOING = "DOING"
    """An agent of the assigned group works on it. Entering it begins a round and voids every live approval."""
    REVIEW = "REVIEW"
    """The work is handed in; who handed it in is an executor for ever."""
    APPROVAL = "APPROVAL"
    """The gate's approver looks at it."""
    DONE = "DONE"
    """Finished, for good: nothing about it changes any more."""
    BLOCKED = "BLOCKED"
    """Can't go on; keeps where it came from and who blocked it."""


TRANSITIONS: dict[State, frozenset[State]] = {
    State.INBOX: frozenset({State.TRIAGED, State.BLOCKED}),
    State.TRIAGED: frozenset({State.READY, State.BLOCKED}),
    State.READY: frozenset({State.DOING, State.BLOCKED}),
    State.DOING: frozenset({State.REVIEW, State.BLOCKED}),
    State.REVIEW: frozenset({State.APPROVAL, State.DOING, State.BLOCKED}),
    State.APPROVAL: frozenset({State.DONE, State.REVIEW, State.BLOCKED}),
    State.BLOCKED: frozenset({State.INBOX, State.TRIAGED, State.READY, State.DOING}),
    State.DONE: frozenset(),
}


class TaskType(enum.StrEnum):
    """What sort of work it is; strict mode asks updated docs of some."""

    EPIC = "EPIC"
    FEATURE = "FEATURE"
    BUG = "BUG"
    SECURITY = "SECURITY"
    REVOPS = "REVOPS"
    OPS = "OPS"
    RESEARCH = "RESEARCH"
    CONTENT = "CONTENT"
    DOC = "DOC"
    INCIDENT = "INCIDENT"


class Priority(enum.StrEnum):
    """P0 is the most urgent."""

    P0 = "P0"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"


class Gate(enum.StrEnum):
    """What must be approved before the task is done."""

    NONE = "NONE"
    SECURITY = "SECURITY"
    REVOPS = "REVOPS"
    CLAIMS = "CLAIMS"
    PRODUCT = "PRODUCT"


class Scope(enum.StrEnum):
    """Whether the task belongs to a product or to the company."""

    COMPANY = "COMPANY"
    PRODUCT = "PRODUCT"


class Risk(enum.StrEnum):
    """How much is at stake; a note for people and for later policy."""

    LOW = "LOW"
    NORMAL = "NORMAL"
    HIGH = "HIGH"


class Task(NamedTuple):
    """A task's row, and what hangs on it, as one unit of work sees them.

    Texts are empty where there is nothing. Flags are 0 or 1. checklist, evidence, executors and attempts are JSON
    arrays, override a JSON object or empty: texts, decoded only where a decision needs them. The enums above are plain
    str here, as the database gives them.
    """

    id: str
    title: str
    description: str
    task_type: str
    state: str
    priority: str
    product_id: str
    scope: str
    assigned_group: str
    executor: str
    gate: str
    human_gate: int
    risk: str
    version: int
    round: int
    rework_count: int
    previous_state: str
    state_reason: str
    review_summary: str
    checklist: str
    evidence_required: int | None
    docs_updated: int
    evidence: str
    blocked_from: str
    blocked_by: str
    override: str
    executors: str
    metadata: str
    traceparent: str
    policy_version: str
    created_by: str
    created_at: str
    updated_at: str
    # From other tables, read with the row.
    product_name: str = ""
    product_status: str = ""
    approved_by: str = ""
    """Who gave the live approval of the task's gate."""
    attempts: str = "[]"
    """[[group, attempt_id, fence], …]"""

    @property
    def has_executed(self) -> tuple[str, ...]:
        """Principals that executed it, ever."""
        return decode_list(self.executors)


COLUMNS: tuple[str, ...] = Task._fields[: Task._fields.index("product_name")]
"""The fields that are columns of gov_tasks."""


@lru_cache(maxsize=4096)
def decode_list(text: str) -> tuple[Any, ...]:
    """A JSON array as a tuple; the few short ones that recur are decoded once."""
    return tuple(json.loads(text))


def worked_on(task: Task, principal: str) -> bool:
    """Whether the principal executed the task, or is the group that it is assigned to."""
    return principal in decode_list(task.executors) or (
        task.assigned_group != "" and principal == f"group:{task.assigned_group}"
    )


def with_executors(task: Task, principals: Iterable[str]) -> str:
    """The executors with these added, as JSON; nothing is ever taken away."""
    known = decode_list(task.executors)
    return canonical([*known, *(principal for principal in principals if principal not in known)])


def check_version(task: Task, expected: int | None) -> NanoclawError | None:
    """STALE_VERSION if the caller decided on another version than the one that stands."""
    if expected is None or expected == task.version:
        return None
    return NanoclawError(
        Kind.CONFLICT,
        "STALE_VERSION",
        f"task {task.id} is at version {task.version}, not {expected}",
        next_step="read the task again and decide anew",
        expected=expected,
        actual=task.version,
        state=task.state,
    )


def check_open(task: Task) -> NanoclawError | None:
    """TASK_DONE if the task is finished: nothing about it changes any more."""
    if task.state != "DONE":
        return None
    return NanoclawError(
        Kind.PRECONDITION, "TASK_DONE", f"task {task.id} is done", next_step="create a follow-up task", state=task.state
    )


def successor(task: Task, now: str, policy_version: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the next version: the changes and what every change brings with it."""
    columns = {**changes, "version": task.version + 1, "updated_at": now}
    if task.policy_version != policy_version:
        columns["policy_version"] = policy_version
    return columns
