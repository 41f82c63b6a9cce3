"""A task as the dispatcher sees it: the few of its fields that decide whether an agent is started, and for whom."""

import enum
from dataclasses import dataclass


class TaskState(enum.StrEnum):
    """The states of governance; an unknown one is refused where it comes in, never guessed."""

    INBOX = "INBOX"
    TRIAGED = "TRIAGED"
    READY = "READY"
    DOING = "DOING"
    REVIEW = "REVIEW"
    APPROVAL = "APPROVAL"
    DONE = "DONE"
    BLOCKED = "BLOCKED"


@dataclass(frozen=True, slots=True)
class Task:
    """One reading of a task, at one version.

    round: how often it has entered DOING. rework_count: how often it was sent back from REVIEW to DOING. gate: empty
    where no approval is needed. approver_group: whom to start for the gate; empty where a person or nobody decides.
    priority: 0 (P0) to 3. startable: False while its product is paused or killed. reason: why it is in its state.
    """

    id: str
    version: int
    state: TaskState
    previous_state: TaskState | None = None
    round: int = 0
    rework_count: int = 0
    assigned_group: str = ""
    gate: str = ""
    human_gate: bool = False
    approver_group: str = ""
    priority: int = 2
    startable: bool = True
    reason: str = ""
    product_id: str = ""
    traceparent: str = ""
