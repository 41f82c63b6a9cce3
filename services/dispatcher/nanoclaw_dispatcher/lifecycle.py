"""The lifecycles: where a dispatch and its attempts are, which changes there are, and why one is where it is. Pure."""

import enum


class DispatchState(enum.StrEnum):
    """Where one dispatch is: one need of one task for one group's agent."""

    ENQUEUED = "ENQUEUED"
    """Inserted. An attempt is being claimed and started, or the next one waits for its backoff."""
    STARTED = "STARTED"
    """An attempt is alive."""
    DONE = "DONE"
    """The attempt ended and the task had moved on."""
    FAILED = "FAILED"
    """No attempt is left; the task is blocked with the reason."""
    CANCELLED = "CANCELLED"
    """Stopped by a person, refused at the claim, or withdrawn because the task had moved away."""


TRANSITIONS: dict[DispatchState, frozenset[DispatchState]] = {
    # ENQUEUED → DONE: an agent whose start was not recorded before a crash, and that ended meanwhile.
    DispatchState.ENQUEUED: frozenset(
        {DispatchState.STARTED, DispatchState.DONE, DispatchState.FAILED, DispatchState.CANCELLED}
    ),
    DispatchState.STARTED: frozenset(
        {DispatchState.ENQUEUED, DispatchState.DONE, DispatchState.FAILED, DispatchState.CANCELLED}
    ),
    DispatchState.DONE: frozenset(),
    DispatchState.FAILED: frozenset({DispatchState.ENQUEUED}),  # RetryDispatch
    DispatchState.CANCELLED: frozenset({DispatchState.ENQUEUED}),  # RetryDispatch
}
OPEN = frozenset({DispatchState.ENQUEUED, DispatchState.STARTED})


class AttemptState(enum.StrEnum):
    """Where one start of an agent is."""

    ENQUEUED = "ENQUEUED"
    """Inserted, and holding a slot; its process may or may not exist yet, the runtime knows."""
    STARTED = "STARTED"
    """Its process was seen."""
    DONE = "DONE"
    """It ended, and the task had moved."""
    FAILED = "FAILED"
    """It ended or was stopped, and the task had not moved by it."""
    LOST = "LOST"
    """The runtime has shown that it is gone, and there is no exit record."""


ATTEMPT_TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.ENQUEUED: frozenset({AttemptState.STARTED, AttemptState.DONE, AttemptState.FAILED, AttemptState.LOST}),
    AttemptState.STARTED: frozenset({AttemptState.DONE, AttemptState.FAILED, AttemptState.LOST}),
    AttemptState.DONE: frozenset(),
    AttemptState.FAILED: frozenset(),
    AttemptState.LOST: frozenset(),
}
LIVE = frozenset({AttemptState.ENQUEUED, AttemptState.STARTED})


class Code(enum.StrEnum):
    """Why a dispatch is in its state, where that is not plain from the state itself."""

    NONE = ""
    CLAIM_REFUSED = "CLAIM_REFUSED"
    """Governance refused the transition: the task had moved, or lacks what DOING needs."""
    WITHDRAWN = "WITHDRAWN"
    """The task moved away under it."""
    CANCELLED = "CANCELLED"
    """A person cancelled it."""
    EXHAUSTED = "EXHAUSTED"
    """Every attempt failed."""
