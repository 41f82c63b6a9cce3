"""An approval: who may give it, what it covers, and who is left to give one."""

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import NamedTuple

from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import Kind, NanoclawError, Violation
from nanoclaw_core.principal import Caller
from nanoclaw_governance.policy import APPROVER_GROUPS, Relation
from nanoclaw_governance.relation import fenced, relations
from nanoclaw_governance.task import State, Task, check_open, check_version, worked_on

APPROVABLE = frozenset({State.REVIEW, State.APPROVAL})
"""Where there is something to be seen."""

_JUDGES = frozenset({Relation.ADMIN, Relation.APPROVER, Relation.MAIN, Relation.GATE_APPROVER})
_PERSONS = frozenset({Relation.ADMIN, Relation.APPROVER})


class Approval(NamedTuple):
    """An approval's row: of which gate, by whom, and what it covers. Voided once, it stays void."""

    id: str
    task_id: str
    gate: str
    approved_by: str
    notes: str
    round: int
    task_version: int
    digest: str
    created_at: str
    voided_at: str = ""
    void_reason: str = ""


class Verdict(NamedTuple):
    """The answer to a request to approve: refused, standing already, or to be recorded."""

    refusal: NanoclawError | None = None
    changed: bool = False


def possible_approvers(gate: str, assigned_group: str, executors: Collection[str]) -> tuple[str, ...]:
    """Groups that could approve the gate, first its own, then main; none that works or worked behind it."""
    own = APPROVER_GROUPS.get(gate)
    if own is None:
        return ()
    groups = (own,) if own == "main" else (own, "main")
    return tuple(group for group in groups if group != assigned_group and f"group:{group}" not in executors)


def approver_group(task: Task) -> str:
    """The group to ask for approval now; empty for gate NONE, a human gate, or when only a person is left."""
    if task.human_gate or task.gate == "NONE":
        return ""
    groups = possible_approvers(task.gate, task.assigned_group, task.has_executed)
    return groups[0] if groups else ""


def check_approvable(
    gate: str, human_gate: bool | int, assigned_group: str, executors: Collection[str]
) -> Violation | None:
    """NO_POSSIBLE_APPROVER if every group that could approve the gate works or worked behind it."""
    if gate == "NONE" or human_gate or possible_approvers(gate, assigned_group, executors):
        return None
    workers = ", ".join(sorted({*executors, f"group:{assigned_group}"} - {"group:"}))
    return Violation(
        "NO_POSSIBLE_APPROVER",
        f"no group is left that could approve gate {gate}: {workers} work or worked behind it",
        "assign another group, choose another gate, or mark the gate human_gate",
    )


def objections(task: Task, caller: Caller, act: str = "approve") -> Iterator[Violation]:
    """Why the caller may not judge the work: never who executed it, only a person at a human gate."""
    held = relations(task, caller)
    if _JUDGES.isdisjoint(held):
        yield Violation(
            "NOT_PERMITTED",
            f"{caller.principal} may not {act} gate {task.gate} of task {task.id}",
            f"ask {ask(task)}",
        )
    elif task.human_gate and _PERSONS.isdisjoint(held):
        yield Violation("HUMAN_GATE", f"only a person may {act} task {task.id}", "ask an operator")
    if worked_on(task, caller.principal):
        yield Violation(
            "SELF_APPROVAL",
            f"{caller.principal} worked on task {task.id} and may not {act} it",
            f"ask {ask(task)}",
        )
    yield from fenced(task, caller)


def ask(task: Task) -> str:
    """Whom to ask for the gate's approval, in words."""
    group = approver_group(task)
    return f"group {group}" if group else "an operator who did not work on it"


def decide(task: Task, gate: str, caller: Caller, expected_version: int | None) -> Verdict:
    """Whether the caller's approval of the gate is accepted; who approves twice has approved once."""
    if refusal := check_version(task, expected_version) or check_open(task):
        return Verdict(refusal)
    if task.approved_by == caller.principal and gate == task.gate:
        return Verdict()
    for objection in objections(task, caller):
        return Verdict(
            NanoclawError(Kind.DENIED, objection.code, objection.message, next_step=objection.next_step, task=task.id)
        )
    violations = list(_missing(task, gate))
    if violations:
        first = violations[0]
        return Verdict(
            NanoclawError(
                Kind.PRECONDITION,
                first.code,
                first.message,
                violations=violations,
                state=task.state,
                version=task.version,
            )
        )
    return Verdict(changed=True)


def _missing(task: Task, gate: str) -> Iterator[Violation]:
    if task.state not in APPROVABLE:
        yield Violation(
            "NOTHING_TO_APPROVE",
            f"task {task.id} is in {task.state}; approvals are accepted in REVIEW and APPROVAL",
            "wait until the work is handed in: until TASK_STATE_REVIEW",
        )
    if gate == "NONE" or gate != task.gate:
        step = f"approve GATE_{task.gate}" if task.gate != "NONE" else "move it on: no approval is needed"
        yield Violation("GATE_MISMATCH", f"the gate of task {task.id} is {task.gate}, not {gate}", step)
    elif task.approved_by:
        yield Violation(
            "ALREADY_APPROVED",
            f"{task.approved_by} approved gate {gate} of task {task.id}",
            "move the task to TASK_STATE_DONE",
        )


def seen(task: Task) -> str:
    """SHA-256, hex, over what an approver looked at: summary, evidence and checklist."""
    content = {
        "summary": task.review_summary,
        "evidence": json.loads(task.evidence),
        "checklist": json.loads(task.checklist),
    }
    return hashlib.sha256(canonical(content).encode()).hexdigest()
