"""Where a request file stands in which trace: pure rules over what the mailbox knows and what the file claims."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from nanoclaw_telemetry import TraceContext

MAX_SECONDS = 7 * 24 * 3600
"""A longer span than this is nonsense, and not passed on."""


class Place(NamedTuple):
    """Where the span of a request goes. agent: the agent's own span, if the file's context is of this trace."""

    span: TraceContext
    parent: TraceContext | None
    links: tuple[TraceContext, ...]
    agent: TraceContext | None


class AgentSpan(NamedTuple):
    """What an agent says that it did: a name and Unix times in nanoseconds."""

    name: str
    start_ns: int
    end_ns: int


def place(dispatch: TraceContext | None, traceparent: Any) -> Place:
    """A file's own context counts if its trace is the dispatch's; a foreign one becomes a link, a bad one nothing."""
    own = TraceContext.parse(traceparent) if isinstance(traceparent, str) else None
    if own is not None and dispatch is not None and own.trace_id == dispatch.trace_id:
        return Place(own.child(), own, (), own)
    span = dispatch.child() if dispatch is not None else TraceContext.new()
    return Place(span, dispatch, (own,) if own is not None else (), None)


def agent_span(claimed: Any) -> AgentSpan | None:
    """The span that a file reports, or None where it makes no sense."""
    if not isinstance(claimed, dict):
        return None
    name, start, end = claimed.get("name"), _nanoseconds(claimed.get("start")), _nanoseconds(claimed.get("end"))
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 100:
        return None
    if start is None or end is None or not 0 <= end - start <= MAX_SECONDS * 1_000_000_000:
        return None
    return AgentSpan(name, start, end)


def _nanoseconds(text: Any) -> int | None:
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = int(moment.replace(microsecond=0).timestamp())
    return (whole * 1_000_000 + moment.microsecond) * 1000 if whole > 0 else None
