"""The dispatcher's spans in a task's own trace: the start, and the attempt from its row to its end."""

import sqlite3
from datetime import UTC, datetime

from nanoclaw_core.clock import from_text
from nanoclaw_telemetry import Telemetry, TraceContext

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def emit_start(telemetry: Telemetry, dispatch: sqlite3.Row, attempt: sqlite3.Row) -> None:
    """`dispatch.start`: from the row of the attempt to its process."""
    if not telemetry.enabled:
        return
    parent = TraceContext.parse(dispatch["traceparent"])
    context = (parent or TraceContext.new()).child()
    _emit(telemetry, "dispatch.start", context, parent, dispatch, attempt, attempt["started_at"])


def emit_attempt(telemetry: Telemetry, dispatch: sqlite3.Row, attempt: sqlite3.Row, context: TraceContext) -> None:
    """`dispatch.attempt`, under the ids that the agent was given."""
    if not telemetry.enabled:
        return
    parent = TraceContext.parse(dispatch["traceparent"])
    _emit(telemetry, "dispatch.attempt", context, parent, dispatch, attempt, attempt["ended_at"])


def _emit(
    telemetry: Telemetry, name: str, context: TraceContext, parent: TraceContext | None, dispatch: sqlite3.Row,
    attempt: sqlite3.Row, end: str,
) -> None:  # fmt: skip
    began = nanoseconds(attempt["created_at"])
    telemetry.emit(
        name,
        context,
        parent=parent,
        start_ns=began,
        end_ns=max(began, nanoseconds(end)),
        attributes={
            "task.id": dispatch["task_id"],
            "group": dispatch["group_name"],
            "dispatch.key": dispatch["dispatch_key"],
            "dispatch.rule": dispatch["rule"],
            "attempt.id": attempt["id"],
            "attempt.number": attempt["number"],
            "outcome": attempt["outcome"],
        },
        error="" if attempt["outcome"] in ("", "EXITED", "CANCELLED") else attempt["outcome"],
    )


def nanoseconds(text: str) -> int:
    """Unix nanoseconds of a TEXT time."""
    since = from_text(text) - _EPOCH
    return ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
