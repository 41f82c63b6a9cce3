"""The rules of dispatch: which agent a task needs now, if any, and which running one it needs no more. Pure."""

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from nanoclaw_dispatcher.lifecycle import OPEN, Code, DispatchState
from nanoclaw_dispatcher.task import Task, TaskState


class Rule(enum.IntEnum):
    """Which rule of the design started it."""

    EXECUTE = 1
    """READY with an assigned group."""
    REVIEW = 2
    """REVIEW entered from DOING, with a gate."""
    REWORK = 3
    """REVIEW entered from APPROVAL: moves the task back to DOING and starts nothing itself."""
    RESUME = 4
    """DOING entered by rework, unblocking or reassignment."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A dispatch, as far as the rules look.

    round: of the task, that it serves. task_version: what it was cut for. seen_version: the latest of which is known
    what it meant for the dispatch.
    """

    id: str
    key: str
    group: str
    rule: Rule
    round: int
    task_version: int
    seen_version: int
    state: DispatchState
    code: Code = Code.NONE
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Neither finished nor given up."""
        return self.state in OPEN


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rules depend on. groups: the configured ones. max_rework: rounds of it before the task is blocked."""

    groups: frozenset[str]
    max_rework: int = 3


@dataclass(frozen=True, slots=True)
class Start:
    """Insert a dispatch and start the group's agent; `to_state` None: nothing to claim, the task is there already."""

    key: str
    rule: Rule
    group: str
    round: int
    from_state: TaskState
    to_state: TaskState | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """Transition the task, starting nothing: rework (rule 3), or BLOCKED with a reason. `key` is the request_id."""

    key: str
    to_state: TaskState
    reason: str


@dataclass(frozen=True, slots=True)
class Notify:
    """Nothing can be started; a person should know, once per `ref`."""

    notice: str
    ref: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a task now. withdraw: open dispatches that it needs no more. because: why there is no step."""

    step: Start | Move | Notify | None = None
    withdraw: tuple[str, ...] = ()
    because: str = ""


def attempt_id(key: str, number: int) -> str:
    """The container's name: `nc-{20 hex of sha256(dispatch key)}-{number}`."""
    return f"nc-{hashlib.sha256(key.encode()).hexdigest()[:20]}-{number}"


def waits(task: Task, dispatch: Dispatch) -> bool:
    """Whether the task still needs this dispatch: it is where the claim found it, or where the claim put it."""
    if dispatch.rule is Rule.REVIEW:
        unclaimed = task.state is TaskState.REVIEW and task.version == dispatch.task_version
        claimed = task.state is TaskState.APPROVAL and task.round == dispatch.round
        return (unclaimed or claimed) and task.approver_group == dispatch.group and not task.human_gate
    unclaimed = task.state is TaskState.READY and task.version == dispatch.task_version
    claimed = task.state is TaskState.DOING and task.round == dispatch.round
    return (unclaimed or claimed) and task.assigned_group == dispatch.group


def decide(task: Task, dispatches: Sequence[Dispatch], policy: Policy) -> Decision:
    """What this task needs now, given all its dispatches, oldest first.

    Asked again inside the transaction that inserts, so that two dispatchers agree. A reading older than what was known
    of the task before decides nothing: it may show as waiting what was served long ago.
    """
    if any(dispatch.seen_version > task.version for dispatch in dispatches):
        return Decision(because="the reading is older than what is known")
    withdraw = tuple(d.id for d in dispatches if d.is_open and not waits(task, d))
    step = _STEPS[task.state](task, dispatches, policy) if task.state in _STEPS else None
    if isinstance(step, str):
        return Decision(withdraw=withdraw, because=step)
    if isinstance(step, Start):
        step = _startable(step, task, dispatches, policy)
        if isinstance(step, str):
            return Decision(withdraw=withdraw, because=step)
    return Decision(step, withdraw)


_Step = Start | Move | Notify | str | None


def _startable(start: Start, task: Task, dispatches: Sequence[Dispatch], policy: Policy) -> Start | Move | str:
    if start.group not in policy.groups:
        here = ", ".join(sorted(policy.groups))
        return _block(task, f"UNKNOWN_GROUP: no group {start.group!r} is configured; assign one of {here}")
    if any(d.is_open and d.group == start.group for d in dispatches):
        return "an earlier dispatch of that group is still open"
    if any(d.key == start.key for d in dispatches):
        return "its dispatch is known"
    return start


def _ready(task: Task, dispatches: Sequence[Dispatch], policy: Policy) -> _Step:
    if not task.assigned_group:
        return "nobody is assigned"
    if not task.startable:
        return _product_waits(task)
    key = f"{task.id}:{task.state}->{TaskState.DOING}:v{task.version}"
    if known := next((d for d in dispatches if d.key == key), None):
        return _given_up(task, known) or "its dispatch is known"
    return Start(key, Rule.EXECUTE, task.assigned_group, task.round + 1, task.state, TaskState.DOING)


def _doing(task: Task, dispatches: Sequence[Dispatch], policy: Policy) -> _Step:
    serving = [d for d in dispatches if d.rule is not Rule.REVIEW and d.round == task.round]
    ours = [d for d in serving if d.group == task.assigned_group]
    if closing := _served(task, ours):
        return closing
    by_hand = task.previous_state is TaskState.READY and all(d.code is Code.CLAIM_REFUSED for d in serving)
    if by_hand:
        return "whoever moved it works on it"
    if task.rework_count > policy.max_rework and task.previous_state is TaskState.REVIEW:
        return _block(task, f"REWORK_LIMIT: sent back {task.rework_count} times")
    if not task.startable:
        return _product_waits(task)
    key = f"{task.id}:{task.state}:v{task.version}"
    return Start(key, Rule.RESUME, task.assigned_group, task.round, task.state, None, task.reason)


def _review(task: Task, dispatches: Sequence[Dispatch], policy: Policy) -> _Step:
    if task.previous_state is TaskState.APPROVAL:
        return _rework(task, policy)
    key = f"{task.id}:{task.state}->{TaskState.APPROVAL}:v{task.version}"
    if known := next((d for d in dispatches if d.key == key), None):
        return _given_up(task, known) or "its dispatch is known"
    return _ask(task) or Start(key, Rule.REVIEW, task.approver_group, task.round, task.state, TaskState.APPROVAL)


def _approval(task: Task, dispatches: Sequence[Dispatch], policy: Policy) -> _Step:
    ours = [d for d in dispatches if d.rule is Rule.REVIEW and d.round == task.round and d.group == task.approver_group]
    if closing := _served(task, ours):
        return closing
    key = f"{task.id}:{task.state}:v{task.version}"
    return _ask(task) or Start(key, Rule.REVIEW, task.approver_group, task.round, task.state, None)


_QUOTED = 2000
"""Characters of a reason inside another, which governance would not take at any length."""


def _rework(task: Task, policy: Policy) -> _Step:
    if task.rework_count >= policy.max_rework:
        last = task.reason[:_QUOTED]
        return _block(task, f"REWORK_LIMIT: sent back {task.rework_count} times before; last: {last}")
    if not task.assigned_group:
        return Notify("UNASSIGNED", f"v{task.version}", "sent back, but nobody is assigned")
    if not task.startable:
        return _product_waits(task)
    return Move(f"{task.id}:{task.state}->{TaskState.DOING}:v{task.version}", TaskState.DOING, task.reason or "rework")


def _ask(task: Task) -> Notify | str | None:
    """Why no agent is asked for approval; None where one is."""
    if not task.gate:
        return "no gate: main or an operator finishes it"
    if task.human_gate:
        return Notify("HUMAN_GATE", f"r{task.round}", f"gate {task.gate} waits for a person")
    if not task.approver_group:
        return Notify("NO_APPROVER", f"v{task.version}", f"gate {task.gate} has no group left that may approve")
    return None


def _served(task: Task, ours: Sequence[Dispatch]) -> Move | str | None:
    """What the last of the dispatches that serve the task's stay in its state says; None: start another."""
    if not ours:
        return None
    return "it is served" if ours[-1].is_open else _given_up(task, ours[-1])


def _given_up(task: Task, dispatch: Dispatch) -> Move | str | None:
    """What follows from a dispatch that ended although the task still waits for it."""
    if dispatch.state is DispatchState.FAILED or dispatch.code is Code.CANCELLED:
        return _block(task, dispatch.reason)
    if dispatch.code is Code.CLAIM_REFUSED and dispatch.task_version == task.version:
        return "its claim was refused, and it has not changed since"
    return None


def _product_waits(task: Task) -> Notify:
    return Notify("PRODUCT_NOT_ACTIVE", f"v{task.version}", f"product {task.product_id} is not active")


def _block(task: Task, reason: str) -> Move:
    return Move(f"{task.id}:{task.state}->{TaskState.BLOCKED}:v{task.version}", TaskState.BLOCKED, reason)


_STEPS = {
    TaskState.READY: _ready,
    TaskState.DOING: _doing,
    TaskState.REVIEW: _review,
    TaskState.APPROVAL: _approval,
}
