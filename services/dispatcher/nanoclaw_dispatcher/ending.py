"""What follows from the end of an attempt: done, tried again after a pause, or given up. Pure."""

import enum
from dataclasses import dataclass
from datetime import timedelta

from nanoclaw_core.clock import from_text, to_text
from nanoclaw_dispatcher.lifecycle import AttemptState, Code, DispatchState


class Outcome(enum.StrEnum):
    """Why an attempt ended as it did."""

    EXITED = "EXITED"
    NO_PROGRESS = "NO_PROGRESS"
    """It ended cleanly without moving its task."""
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    WALL_TIMEOUT = "WALL_TIMEOUT"
    START_FAILED = "START_FAILED"
    LOST = "LOST"
    CANCELLED = "CANCELLED"
    """Stopped by us: a person cancelled it, its task moved away, or its claim was refused."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """attempts: how many may fail before the task is blocked. base_seconds: the first pause, doubled each time."""

    attempts: int = 3
    base_seconds: float = 1.0
    most_seconds: float = 300.0

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt, after so many failures (≥ 1)."""
        return float(min(self.base_seconds * 2.0 ** min(failures - 1, 30), self.most_seconds))


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended. outcome: EXITED where it ended by itself, else why it was stopped or never ran."""

    outcome: Outcome
    exit_code: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The states to write. failures: those counted so far. not_before: when the next attempt may start, TEXT."""

    attempt: AttemptState
    outcome: Outcome
    dispatch: DispatchState
    failures: int
    code: Code = Code.NONE
    reason: str = ""
    not_before: str = ""


def settle(
    end: End, *, moved: bool, failures: int, code: Code, reason: str, retry: RetryPolicy, now: str
) -> Settlement:
    """What to write when an attempt has ended and its mailbox is drained.

    moved: the task does not wait for it any more. code and reason: why we stopped it, where we did (CANCELLED,
    WITHDRAWN). A moved task means success however the process ended, unless it moved away under the agent.
    """
    if code is not Code.NONE:
        state = AttemptState.LOST if end.outcome is Outcome.LOST else AttemptState.FAILED
        return Settlement(state, Outcome.CANCELLED, DispatchState.CANCELLED, failures, code, reason)
    if moved and end.outcome is Outcome.START_FAILED:
        reason = "the task had moved before the agent was started"
        return Settlement(AttemptState.FAILED, end.outcome, DispatchState.CANCELLED, failures, Code.WITHDRAWN, reason)
    if moved:
        state = AttemptState.LOST if end.outcome is Outcome.LOST else AttemptState.DONE
        return Settlement(state, end.outcome, DispatchState.DONE, failures)
    outcome = Outcome.NO_PROGRESS if end.outcome is Outcome.EXITED and end.exit_code == 0 else end.outcome
    state = AttemptState.LOST if outcome is Outcome.LOST else AttemptState.FAILED
    failures += 1
    why = describe(outcome, end)
    if failures >= retry.attempts:
        reason = f"{outcome}: {failures} attempts failed; the last: {why}"
        return Settlement(state, outcome, DispatchState.FAILED, failures, Code.EXHAUSTED, reason)
    not_before = to_text(from_text(now) + timedelta(seconds=retry.pause(failures)))
    return Settlement(state, outcome, DispatchState.ENQUEUED, failures, Code.NONE, why, not_before)


def describe(outcome: Outcome, end: End) -> str:
    """The end in a line, for the task's reason and the next attempt's prompt."""
    words = {
        Outcome.EXITED: f"the agent exited with {end.exit_code}",
        Outcome.NO_PROGRESS: "the agent ended without moving its task",
        Outcome.IDLE_TIMEOUT: "the agent did nothing for too long and was stopped",
        Outcome.WALL_TIMEOUT: "the agent took too long and was stopped",
        Outcome.START_FAILED: "the agent could not be started",
        Outcome.LOST: "the agent was lost without an exit record",
        Outcome.CANCELLED: "the agent was stopped",
    }
    return f"{words[outcome]}: {end.detail}" if end.detail else words[outcome]


def postponed(reason: str, failures: int, now: str) -> Settlement:
    """An attempt that governance did not let begin, because its product rests: its dispatch waits, nothing failed."""
    not_before = to_text(from_text(now) + timedelta(seconds=1))
    return Settlement(
        AttemptState.FAILED, Outcome.CANCELLED, DispatchState.ENQUEUED, failures, reason=reason, not_before=not_before
    )
