"""What a caller is to a task: whether it sees it, and in which role it acts on it."""

import json
from collections.abc import Iterator

from nanoclaw_core.errors import Violation
from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance.policy import APPROVER_GROUPS, Relation
from nanoclaw_governance.task import Task

_NONE: frozenset[Relation] = frozenset()
_ADMIN = frozenset({Relation.ADMIN})
_APPROVER = frozenset({Relation.APPROVER})
_MAIN = frozenset({Relation.MAIN})
_DISPATCHER = frozenset({Relation.DISPATCHER})
_ASSIGNED = frozenset({Relation.ASSIGNED_GROUP})
_GATE = frozenset({Relation.GATE_APPROVER})
_BOTH = _ASSIGNED | _GATE


def relations(task: Task, caller: Caller) -> frozenset[Relation]:
    """Every relation of the caller to the task. Main's and an operator's do not depend on the task."""
    kind, _, name = caller.principal.partition(":")
    if kind == "operator":
        if caller.role is Role.ADMIN:
            return _ADMIN
        return _APPROVER if caller.role is Role.APPROVER else _NONE
    if kind == "service":
        return _DISPATCHER if name == "dispatcher" else _NONE
    if kind != "group" or not name:
        return _NONE
    if name == "main":
        return _MAIN
    at_gate = not task.human_gate and APPROVER_GROUPS.get(task.gate) == name
    if task.assigned_group == name:
        return _BOTH if at_gate else _ASSIGNED
    return _GATE if at_gate else _NONE


def is_visible(task: Task, caller: Caller) -> bool:
    """Operators, services and main see every task, a group its own and those at its gate."""
    return not caller.principal.startswith("group:") or bool(relations(task, caller))


def own_gates(group: str) -> tuple[str, ...]:
    """The gates that the group approves."""
    return tuple(gate for gate, approver in APPROVER_GROUPS.items() if approver == group)


def fenced(task: Task, caller: Caller) -> Iterator[Violation]:
    """STALE_ATTEMPT for a group's attempt other than the one bound to the task; a standing mailbox is not fenced."""
    if not caller.attempt:
        return
    group = caller.group
    for name, attempt_id, _ in json.loads(task.attempts):
        if name == group and attempt_id != caller.attempt:
            yield Violation(
                "STALE_ATTEMPT",
                f"attempt {caller.attempt} of group {group} was superseded by {attempt_id}",
                "end this attempt: the later one carries on",
            )
