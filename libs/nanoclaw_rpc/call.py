"""One RPC under way: what the concerns learn about it, and what the servicer may ask."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Caller
from nanoclaw_telemetry import TraceContext, current_trace

__all__ = ["Call", "Proceed", "current_call", "current_caller", "current_trace", "enter", "mark_replayed", "note"]


class Call:
    """One RPC. Made when its method is looked up; filled from the outside in by the concerns.

    started: time.perf_counter. deadline: event loop time by which the handler ends, None for never. notes: facts for
    the audit line. expired, stopping: why its task was cancelled, if it was us.
    """

    __slots__ = (
        "_parent",
        "_trace",
        "caller",
        "context",
        "deadline",
        "error",
        "expired",
        "metadata",
        "notes",
        "replayed",
        "started",
        "stopping",
    )

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata
        self.context: grpc.aio.ServicerContext[Any, Any]
        self.caller: Caller | None = None
        self.error: NanoclawError | None = None
        self.deadline: float | None = None
        self.notes: dict[str, Any] | None = None
        self.started = 0.0
        self.expired = self.replayed = self.stopping = False
        self._parent: TraceContext | None = None
        self._trace: TraceContext | None = None

    @property
    def trace(self) -> TraceContext:
        """The server span; made when first asked for, which reads without a collector never do."""
        if self._trace is None:
            for key, value in self.metadata:
                if key == "traceparent" and isinstance(value, str):
                    self._parent = TraceContext.parse(value)
                    break
            self._trace = self._parent.child() if self._parent is not None else TraceContext.new()
        return self._trace

    @property
    def parent(self) -> TraceContext | None:
        """The caller's span, if it named one."""
        return self._parent if self.trace else None


Proceed = Callable[[Any, Call], Awaitable[Any]]
"""What a concern wraps and is: (request bytes, call) → response bytes; streams write to the context."""

_call: ContextVar[Call | None] = ContextVar("nanoclaw_call", default=None)


def current_call() -> Call | None:
    """The RPC being served, or None outside any."""
    return _call.get()


def enter(call: Call) -> None:
    """Makes `call` current for the rest of its task."""
    _call.set(call)


def current_caller() -> Caller:
    """The verified caller of the RPC being served. Raises INTERNAL outside one: nobody is no caller."""
    call = _call.get()
    if call is None or call.caller is None:
        raise NanoclawError(
            Kind.INTERNAL,
            "NO_CALLER",
            "asked for the caller outside an RPC with a credential",
            next_step="ask in the servicer, of an RPC that access.py does not open to all",
        )
    return call.caller


def note(**facts: Any) -> None:
    """Adds facts to the audit line and server span of the RPC being served: ids and decisions, never parameters."""
    call = _call.get()
    if call is not None:
        if call.notes is None:
            call.notes = {}
        call.notes.update(facts)


def mark_replayed() -> None:
    """Says that a recorded answer was given again, so that the audit line drops to DEBUG."""
    call = _call.get()
    if call is not None:
        call.replayed = True
