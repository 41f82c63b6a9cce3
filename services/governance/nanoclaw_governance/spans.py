"""Spans of facts and refusals: each in its task's own trace, with the decision, linked to the request behind it."""

import time

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Caller
from nanoclaw_governance.act import Act, Fact
from nanoclaw_governance.relation import relations
from nanoclaw_governance.task import Task
from nanoclaw_rpc import mark_replayed, note
from nanoclaw_telemetry import Telemetry, TraceContext

DECIDED = frozenset({Kind.DENIED, Kind.PRECONDITION, Kind.CONFLICT, Kind.EXHAUSTED})
"""Kinds of a refusal that say something of the task; the others are about the form of a request, or about us."""

_ACTIONS = {
    "TransitionTask": "transition",
    "ApproveGate": "approve",
    "UpdateTask": "update",
    "AssignTask": "assign",
    "AddEvidence": "evidence",
    "SetChecklist": "checklist",
    "OverrideTask": "override",
    "BindAttempt": "bind_attempt",
}
"""What a fact of an RPC about a task that exists is called in the log."""


def tell(telemetry: Telemetry, act: Act, request: TraceContext, start_ns: int) -> None:
    """What came of the act, to its audit line and to the tasks' traces."""
    if not act.ran:
        mark_replayed()
        return
    if act.facts:
        first = act.facts[0]
        moved = {"from": first.from_state, "to": first.to_state} if first.from_state else {}
        note(task=first.task.id, action=first.action, state=first.task.state, version=first.task.version, **moved)
    if telemetry.enabled:
        end_ns = time.time_ns()
        for fact in act.facts:
            _emit(telemetry, act, fact, request, start_ns, end_ns)


def tell_refusal(
    telemetry: Telemetry, rpc: str, to: str, task: Task, caller: Caller, refusal: NanoclawError, request: TraceContext,
    start_ns: int,
) -> None:  # fmt: skip
    """A refusal, in the trace of the task that it is about. to: the state wanted, if one was."""
    root = TraceContext.parse(task.traceparent)
    action = _ACTIONS.get(rpc)
    if root is None or action is None:
        return
    wanted = {"nanoclaw.from": task.state, "nanoclaw.to": to} if to else {}
    broken = ",".join(violation.code for violation in refusal.violations)
    telemetry.emit(
        f"task.{action}",
        root.child(),
        parent=root,
        start_ns=start_ns,
        end_ns=time.time_ns(),
        attributes={
            **_who(task, caller),
            **wanted,
            "nanoclaw.decision": "deny",
            "nanoclaw.reason": refusal.reason,
            **({"nanoclaw.violations": broken} if broken else {}),
        },
        links=(request,),
        error=refusal.reason,
    )


def _emit(telemetry: Telemetry, act: Act, fact: Fact, request: TraceContext, start_ns: int, end_ns: int) -> None:
    task = fact.task
    root = TraceContext.parse(task.traceparent)
    if root is None:
        return
    created = fact.action == "create"
    attributes = _who(task, act.caller)
    if fact.from_state:
        attributes["nanoclaw.from"] = fact.from_state
    if fact.to_state:
        attributes["nanoclaw.to"] = fact.to_state
    if fact is act.facts[0]:  # what was asked for; the others follow from it
        attributes["nanoclaw.decision"] = "allow"
        attributes["nanoclaw.reason"] = "PERMITTED"
        attributes["nanoclaw.policy_version"] = act.policy.version
    telemetry.emit(
        f"task.{fact.action}",
        root if created else root.child(),
        parent=None if created else root,
        start_ns=start_ns,
        end_ns=end_ns,
        attributes=attributes,
        links=(request,),
    )


def _who(task: Task, caller: Caller) -> dict[str, str | int | bool]:
    """Who did it as what, and to which task: ids and states, never what somebody wrote."""
    attributes: dict[str, str | int | bool] = {
        "nanoclaw.task": task.id,
        "nanoclaw.state": task.state,
        "nanoclaw.version": task.version,
        "nanoclaw.principal": caller.principal,
        "nanoclaw.relation": ",".join(sorted(relations(task, caller))) or "none",
    }
    for key, value in (
        ("group", task.assigned_group),
        ("gate", task.gate if task.gate != "NONE" else ""),
        ("approved_by", task.approved_by),
        ("attempt", caller.attempt),
    ):
        if value:
            attributes[f"nanoclaw.{key}"] = value
    return attributes
