"""Spans of facts: each in its task's own trace, linked to the request that caused it; told once they are committed."""

import time

from nanoclaw_governance.act import Act, Fact
from nanoclaw_rpc import mark_replayed, note
from nanoclaw_telemetry import Telemetry, TraceContext


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


def _emit(telemetry: Telemetry, act: Act, fact: Fact, request: TraceContext, start_ns: int, end_ns: int) -> None:
    root = TraceContext.parse(fact.task.traceparent)
    if root is None:
        return
    created = fact.action == "create"
    task = fact.task
    attributes: dict[str, str | int | bool] = {
        "nanoclaw.task": task.id,
        "nanoclaw.state": task.state,
        "nanoclaw.version": task.version,
        "nanoclaw.principal": act.caller.principal,
    }
    for key, value in (
        ("group", task.assigned_group),
        ("from", fact.from_state),
        ("to", fact.to_state),
        ("attempt", act.caller.attempt),
    ):
        if value:
            attributes[f"nanoclaw.{key}"] = value
    telemetry.emit(
        f"task.{fact.action}",
        root if created else root.child(),
        parent=None if created else root,
        start_ns=start_ns,
        end_ns=end_ns,
        attributes=attributes,
        links=(request,),
    )
