"""An explanation: everything that stands between a task and a move, and the smallest steps that remove it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nanoclaw_core.errors import Violation, denied, invalid
from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance.policy import APPROVER_GROUPS, PERMITTED, Policy, Relation
from nanoclaw_governance.requirement import unmet
from nanoclaw_governance.task import Task, check_version, worked_on
from nanoclaw_governance.transition import Move, no_such_edge, objections, summary_after


class Explanation(NamedTuple):
    """What TransitionTask would answer, and why."""

    allowed: bool
    would_change: bool
    violations: tuple[Violation, ...]
    next_steps: tuple[str, ...]
    permitted: tuple[str, ...]
    """Principals that may take the edge now; `operator:*` stands for those with the role it takes."""


def explain(task: Task, move: Move, caller: Caller, policy: Policy, limits: Iterable[Violation] = ()) -> Explanation:
    """Every violation of every stage at once, where transition.decide stops at the first stage that refuses.

    limits: violations of rate limits, which only the database knows.
    """
    violations = list(_violations(task, move, caller, policy))
    if not violations and task.state != move.to:
        violations.extend(limits)
    steps = tuple(dict.fromkeys(violation.next_step for violation in violations if violation.next_step))
    return Explanation(
        allowed=not violations,
        would_change=not violations and task.state != move.to,
        violations=tuple(violations),
        next_steps=steps,
        permitted=tuple(permitted_principals(task, move.to)),
    )


def _violations(task: Task, move: Move, caller: Caller, policy: Policy) -> Iterator[Violation]:
    if stale := check_version(task, move.expected_version):
        step = f"read the task again and send expected_version {task.version}"
        yield Violation(stale.reason, stale.message, step)
    if task.state == move.to:
        return
    if (task.state, move.to) not in PERMITTED:
        yield no_such_edge(task.state, move.to)
        return
    yield from objections(task, move.to, caller)
    yield from unmet(task, move.to, move.reason, summary_after(task, move), caller, policy)


def permitted_principals(task: Task, to: str) -> Iterator[str]:
    """Who may take the edge now, by relation; those that worked on the task may not finish it."""
    permitted = PERMITTED.get((task.state, to), frozenset())
    if not permitted:
        return
    groups = []
    if Relation.MAIN in permitted and not (task.human_gate and to == "DONE"):
        groups.append("main")
    if Relation.ASSIGNED_GROUP in permitted and task.assigned_group and _may_take_back(task, to):
        groups.append(task.assigned_group)
    gate_group = APPROVER_GROUPS.get(task.gate)
    if Relation.GATE_APPROVER in permitted and gate_group and not task.human_gate:
        groups.append(gate_group)
    if to == "DONE":
        groups = [group for group in groups if not worked_on(task, f"group:{group}")]
    for group in dict.fromkeys(groups):
        yield f"group:{group}"
    yield "operator:*"
    if Relation.DISPATCHER in permitted:
        yield "service:dispatcher"


def _may_take_back(task: Task, to: str) -> bool:
    if task.state != "BLOCKED":
        return True
    return to == "DOING" and task.blocked_from == "DOING" and task.blocked_by == f"group:{task.assigned_group}"


def subject_of(as_principal: str, caller: Caller) -> Caller:
    """For whom to explain: the caller, or whom an admin or a service names; an operator is taken for an admin.

    Raises NOT_PERMITTED, INVALID_FIELD.
    """
    if as_principal in ("", caller.principal):
        return caller
    if not caller.is_admin and caller.kind != "service":
        raise denied("NOT_PERMITTED", f"{caller.principal} may ask for itself only", "leave out as_principal")
    kind, _, name = as_principal.partition(":")
    if kind not in ("operator", "service", "group") or not name:
        raise invalid("as_principal", "must be operator:name, service:name or group:name", "such as group:developer")
    return Caller(as_principal, Role.ADMIN if kind == "operator" else Role.NONE)
