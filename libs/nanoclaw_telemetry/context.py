"""Where we are in which trace: a W3C trace context with explicit ids, and the one that is current."""

import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311 - ids must be unique, not secret
os.register_at_fork(after_in_child=lambda: globals().update(_bits=random.Random(os.urandom(32)).getrandbits))  # noqa: S311


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span's place: 32 and 16 lower-case hex digits."""

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """The W3C header, sampled."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    @staticmethod
    def parse(text: str) -> "TraceContext | None":
        """The context of a W3C traceparent, or None for anything else."""
        match = _TRACEPARENT.fullmatch(text)
        return TraceContext(match[1], match[2]) if match else None

    @staticmethod
    def new() -> "TraceContext":
        """The first span of a new trace."""
        return TraceContext(f"{_bits(128) or 1:032x}", f"{_bits(64) or 1:016x}")

    def child(self) -> "TraceContext":
        """A new span of the same trace."""
        return TraceContext(self.trace_id, f"{_bits(64) or 1:016x}")


class Running(Protocol):
    """Something with a span: an RPC being served makes its own only when asked."""

    @property
    def trace(self) -> TraceContext:
        """The span."""
        ...


@dataclass(frozen=True, slots=True)
class _Under:
    trace: TraceContext


_current: ContextVar[Running | None] = ContextVar("nanoclaw_trace", default=None)


def current_trace() -> TraceContext:
    """The span that is running; outside any, the first span of a new trace each time."""
    running = _current.get()
    return running.trace if running is not None else TraceContext.new()


def running_trace() -> TraceContext | None:
    """The span that is running, or None."""
    running = _current.get()
    return running.trace if running is not None else None


def enter(running: Running) -> None:
    """Makes the span of `running` current for the rest of this task."""
    _current.set(running)


@contextmanager
def under(trace: TraceContext) -> Iterator[TraceContext]:
    """Makes `trace` current inside the block: log lines carry it, outgoing calls continue it."""
    token = _current.set(_Under(trace))
    try:
        yield trace
    finally:
        _current.reset(token)
