"""One RPC under way: what the concerns learn about it, and what the servicer may ask."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Caller
from nanoclaw_telemetry import TraceContext, current_trace

__all__ = ["Call", "Proceed", "current_call", "current_caller", "current_trace"]


class Call:
    """One RPC. Made by the server; filled from the outside in by the concerns."""

    __slots__ = ("caller", "context", "deadline", "error", "metadata", "notes", "replayed", "stopping", "trace")

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", metadata: Any) -> None:
        self.context = context
        self.metadata = metadata
        self.trace: TraceContext
        self.caller: Caller | None = None
        self.error: NanoclawError | None = None
        self.deadline: float | None = None
        self.notes: dict[str, Any] | None = None
        self.replayed = False
        self.stopping = False


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
        raise NanoclawError(Kind.INTERNAL, "NO_CALLER", "asked for the caller outside an RPC with a credential")
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
