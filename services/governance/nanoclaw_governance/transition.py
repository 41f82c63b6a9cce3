"""A transition: one pure decision about one move of a task, and the same decision explained."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from nanoclaw_core.errors import Kind, NanoclawError, Violation
from nanoclaw_core.principal import Caller
from nanoclaw_governance import approval
from nanoclaw_governance.policy import PERMITTED, Policy, Relation
from nanoclaw_governance.relation import fenced, relations
from nanoclaw_governance.requirement import unmet
from nanoclaw_governance.task import TRANSITIONS, Task, check_version, successor, with_executors


class Move(NamedTuple):
    """A request to move a task."""

    to: str
    reason: str = ""
    review_summary: str = ""
    """What was done, for DOING to REVIEW; where it is empty the reason stands for it."""
    expected_version: int | None = None


class Decision(NamedTuple):
    """What comes of a move: a refusal, nothing (it is there already), or the columns that change."""

    refusal: NanoclawError | None = None
    changes: dict[str, Any] | None = None
    voids: str = ""
    """Why live approvals are void from now on; empty: they stand."""


def decide(task: Task, move: Move, caller: Caller, policy: Policy, now: str) -> Decision:
    """The whole order of TransitionTask: version, already there, edge, permission, requirements."""
    if refusal := check_version(task, move.expected_version):
        return Decision(refusal)
    if task.state == move.to:
        return Decision()
    if (task.state, move.to) not in PERMITTED:
        return Decision(_refused(Kind.PRECONDITION, task, [no_such_edge(task.state, move.to)]))
    for objection in objections(task, move.to, caller):
        return Decision(_refused(Kind.DENIED, task, [objection]))
    if violations := list(unmet(task, move.to, move.reason, summary_after(task, move), caller, policy)):
        return Decision(_refused(Kind.PRECONDITION, task, violations))
    return Decision(
        changes=_changes(task, move, caller, policy, now), voids="the task entered DOING" if move.to == "DOING" else ""
    )


def objections(task: Task, to: str, caller: Caller) -> Iterator[Violation]:
    """Why the caller may not take an edge that exists."""
    held = relations(task, caller)
    permitted = PERMITTED[task.state, to]
    if permitted.isdisjoint(held) or not _may_unblock(task, to, caller, held):
        yield Violation(
            "NOT_PERMITTED",
            f"{caller.principal} may not move task {task.id} from {task.state} to {to}",
            f"ask {_whom(permitted)}",
        )
    elif to == "DONE":
        yield from approval.objections(task, caller, "finish")
    else:
        yield from fenced(task, caller)


def _may_unblock(task: Task, to: str, caller: Caller, held: frozenset[Relation]) -> bool:
    """The assigned group takes back only what it blocked itself, from DOING."""
    if task.state != "BLOCKED" or Relation.ASSIGNED_GROUP not in held:
        return True
    return to == "DOING" and task.blocked_from == "DOING" and task.blocked_by == caller.principal


def _whom(permitted: frozenset[Relation]) -> str:
    names = sorted(relation.value.replace("_", " ") for relation in permitted)
    return f"one of: {', '.join(names)}"


def summary_after(task: Task, move: Move) -> str:
    """The review summary that the task would have in REVIEW: the executor's own, of this round."""
    if task.state == "DOING":
        return move.review_summary or move.reason
    return task.review_summary or move.review_summary


def _changes(task: Task, move: Move, caller: Caller, policy: Policy, now: str) -> dict[str, Any]:
    source, to = task.state, move.to
    changes: dict[str, Any] = {"state": to, "previous_state": source, "state_reason": move.reason}
    if source == "BLOCKED":
        changes["blocked_from"] = changes["blocked_by"] = ""
    if to == "DOING":
        changes["round"] = task.round + 1
        changes["executors"] = with_executors(task, (f"group:{task.assigned_group}",))
        if source == "REVIEW":
            changes["rework_count"] = task.rework_count + 1
    elif to == "REVIEW":
        if source == "DOING":
            changes["review_summary"] = summary_after(task, move)
            changes["executors"] = with_executors(task, (caller.principal,))
        elif not task.review_summary and move.review_summary:
            changes["review_summary"] = move.review_summary
    elif to == "BLOCKED":
        changes["blocked_from"] = source
        changes["blocked_by"] = caller.principal
    return successor(task, now, policy.version, changes)


def no_such_edge(source: str, to: str) -> Violation:
    """NO_SUCH_EDGE, with the way round where there is one."""
    way = route(source, to)
    if way:
        step = f"go by {' → '.join(way)}: move it to TASK_STATE_{way[1]} next"
    elif targets := TRANSITIONS.get(source):  # type: ignore[call-overload]
        step = f"choose one of {', '.join(f'TASK_STATE_{target}' for target in sorted(targets))}"
    else:
        step = f"{source} is final: create a follow-up task"
    return Violation("NO_SUCH_EDGE", f"no edge leads from {source} to {to}", step)


def route(source: str, to: str) -> tuple[str, ...]:
    """The shortest way from one state to another, both included, BLOCKED avoided; empty if there is none."""
    ways: list[tuple[str, ...]] = [(source,)]
    seen = {source}
    for way in ways:
        for state in sorted(TRANSITIONS.get(way[-1], ())):  # type: ignore[call-overload]
            if state == to:
                return (*way, to)
            if state not in seen and state != "BLOCKED":
                seen.add(state)
                ways.append((*way, state.value))
    return ()


def _refused(kind: Kind, task: Task, violations: list[Violation]) -> NanoclawError:
    first = violations[0]
    return NanoclawError(
        kind,
        first.code,
        first.message if len(violations) == 1 else "; ".join(violation.message for violation in violations),
        violations=violations if kind is Kind.PRECONDITION else (),
        next_step=first.next_step,
        task=task.id,
        state=task.state,
        version=task.version,
    )
