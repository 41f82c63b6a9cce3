"""The circuit breaker: what keeps failing is left alone for a while, then tried with one call; pure."""

import enum
from dataclasses import dataclass, replace
from datetime import timedelta

from nanoclaw_core.clock import from_text, to_text

FAILURES = 5
WINDOW_SECONDS = 120
OPEN_SECONDS = 600


class BreakerState(enum.StrEnum):
    """How it stands."""

    CLOSED = "CLOSED"
    """Calls pass."""
    OPEN = "OPEN"
    """Calls are refused."""
    HALF_OPEN = "HALF_OPEN"
    """One call is let through; what comes of it decides."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """A breaker. name: empty for what has none. failures: TEXT times of the last ones, oldest first."""

    name: str = ""
    failures: tuple[str, ...] = ()
    opened_at: str = ""
    probe_call_id: str = ""

    @property
    def retry_at(self) -> str:
        """When the next call is let through, TEXT; empty while it is closed."""
        return _later(self.opened_at, OPEN_SECONDS) if self.opened_at else ""

    def state(self, now: str) -> BreakerState:
        """At a moment, TEXT."""
        if not self.opened_at:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self.retry_at <= now else BreakerState.OPEN

    def lets_through(self, now: str) -> bool:
        """Whether a call may be made."""
        state = self.state(now)
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self.probe_call_id)

    def probing(self, call_id: str) -> "Circuit":
        """With the one call that is let through half-open."""
        return replace(self, probe_call_id=call_id)

    def failed(self, now: str, call_id: str) -> "Circuit":
        """After a failure. That of the probe opens it anew; a late one of an earlier call changes nothing."""
        if self.opened_at:
            if call_id != self.probe_call_id:
                return self
            return replace(self, opened_at=now, probe_call_id="")
        failures = (*self.failures, now)[-FAILURES:]
        recent = tuple(at for at in failures if at > _later(now, -WINDOW_SECONDS))
        if len(recent) < FAILURES:
            return replace(self, failures=recent)
        return Circuit(self.name, (), opened_at=now)

    def answered(self, call_id: str) -> "Circuit":
        """After a reply: that of the probe closes it."""
        return Circuit(self.name) if self.opened_at and call_id == self.probe_call_id else self

    def says_nothing(self, call_id: str) -> "Circuit":
        """After a call that was never sent, or that our own end cut off: another probe may go."""
        return replace(self, probe_call_id="") if call_id == self.probe_call_id else self


def _later(moment: str, seconds: int) -> str:
    return to_text(from_text(moment) + timedelta(seconds=seconds))
