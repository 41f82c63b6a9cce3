"""The dispatcher's spans in a task's own trace: the start, the agent's run, and the attempt from its row to its end."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

from nanoclaw_core.clock import from_text
from nanoclaw_telemetry import Telemetry, TraceContext

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def emit_start(telemetry: Telemetry, dispatch: sqlite3.Row, attempt: sqlite3.Row) -> None:
    """`dispatch.start`: from the row of the attempt to its process."""
    context = TraceContext.parse(attempt["traceparent"])
    if context is None or not telemetry.enabled:
        return
    began = nanoseconds(attempt["created_at"])
    telemetry.emit(
        "dispatch.start",
        context.child(),
        parent=context,
        start_ns=began,
        end_ns=max(began, nanoseconds(attempt["started_at"])),
        attributes=_attributes(dispatch, attempt),
    )


def emit_end(telemetry: Telemetry, dispatch: sqlite3.Row, attempts: Sequence[sqlite3.Row], decided: str) -> None:
    """`dispatch.attempt`, under the ids that the agent was given, and in it `agent.run`, its process, if there was one.

    attempts: of the dispatch, in their order; the last has ended, and links to the one that it repeats. decided: the
    state that the dispatch is in now.
    """
    *earlier, attempt = attempts
    before = earlier[-1] if earlier else None
    context = TraceContext.parse(attempt["traceparent"])
    if context is None or not telemetry.enabled:
        return
    began, ended, outcome = nanoseconds(attempt["created_at"]), nanoseconds(attempt["ended_at"]), attempt["outcome"]
    repeated = TraceContext.parse(before["traceparent"]) if before is not None else None
    attributes = {**_attributes(dispatch, attempt), "nanoclaw.outcome": outcome, "nanoclaw.decision": decided}
    if attempt["exit_code"] is not None:
        attributes["nanoclaw.exit_code"] = attempt["exit_code"]
    if before is not None:
        attributes["nanoclaw.retry_of"] = before["id"]
        attributes["nanoclaw.reason"] = _failure(before)
    error = "" if attempt["state"] == "DONE" or outcome == "CANCELLED" else _failure(attempt)
    telemetry.emit(
        "dispatch.attempt",
        context,
        parent=TraceContext.parse(dispatch["traceparent"]),
        start_ns=began,
        end_ns=max(began, ended),
        attributes=attributes,
        links=(repeated,) if repeated is not None else (),
        error=error,
    )
    if attempt["started_at"]:
        started = nanoseconds(attempt["started_at"])
        telemetry.emit(
            "agent.run",
            context.child(),
            parent=context,
            start_ns=started,
            end_ns=max(started, ended),
            attributes=attributes,
            error=error,
            service="agent",
        )


def _failure(attempt: sqlite3.Row) -> str:
    failed = attempt["outcome"] == "EXITED" and attempt["exit_code"]
    return f"EXITED with {attempt['exit_code']}" if failed else str(attempt["outcome"])


def _attributes(dispatch: sqlite3.Row, attempt: sqlite3.Row) -> dict[str, str | int | bool]:
    return {
        "nanoclaw.task": dispatch["task_id"],
        "nanoclaw.group": dispatch["group_name"],
        "nanoclaw.dispatch": dispatch["dispatch_key"],
        "nanoclaw.rule": dispatch["rule"],
        "nanoclaw.attempt": attempt["id"],
        "nanoclaw.attempt_number": attempt["number"],
    }


def nanoseconds(text: str) -> int:
    """Unix nanoseconds of a TEXT time."""
    since = from_text(text) - _EPOCH
    return ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
