"""The life of a call in the effect ledger: its states, what may follow what, and how a crash ends it."""

import enum


class State(enum.StrEnum):
    """Where a call is."""

    DENIED = "DENIED"
    """Refused; nothing left the machine."""
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    """Of L3, allowed but for its votes; nothing left the machine."""
    EXPIRED = "EXPIRED"
    """It had not got its votes in time, or task, grant or policy moved meanwhile."""
    REJECTED = "REJECTED"
    """Voted down."""
    PREPARED = "PREPARED"
    """Allowed and claimed, nothing sent. Found at start: it was never sent."""
    SENT = "SENT"
    """Committed before the first byte leaves; a pure action begins here."""
    EXECUTED = "EXECUTED"
    """Answered, and it worked."""
    FAILED = "FAILED"
    """Answered that it did not work, or never sent."""
    TIMEOUT = "TIMEOUT"
    """A read or a pure action that ended without an answer: nothing has changed anywhere."""
    UNKNOWN = "UNKNOWN"
    """A mutating action that ended without a parsed reply: nobody knows, and it is not repeated."""
    RECONCILED = "RECONCILED"
    """It was UNKNOWN; the provider or a person said what had become of it. The code: OK or NOT_DONE."""
    COMPENSATED = "COMPENSATED"
    """It was UNKNOWN; its effect has been undone."""
    ABANDONED = "ABANDONED"
    """It was UNKNOWN; a person gave up finding out."""


class Kind(enum.StrEnum):
    """What an action does to the world."""

    PURE = "pure"
    """Computes from its parameters; commits twice."""
    READ = "read"
    """Looks at the outside."""
    MUTATING = "mutating"
    """Changes it."""


class UnknownEnd(enum.StrEnum):
    """How an UNKNOWN end of a mutating action is cleared up."""

    PROVIDER_KEY = "provider_key"
    """The provider deduplicates by `Effect.key`: the same request is sent again."""
    VERIFY = "verify"
    """The provider is asked whether it happened."""
    COMPENSATE = "compensate"
    """The effect is undone."""
    HARMLESS = "harmless"
    """It does no harm to repeat it, so nobody needs to know."""
    NONE = "none"
    """Only a person can say. Such an action is of L3, or of a lower level under a grant that says allow_unverified."""


KEEPING = frozenset({UnknownEnd.PROVIDER_KEY, UnknownEnd.VERIFY, UnknownEnd.COMPENSATE})
"""These need the parameters again, so they are kept, encrypted, until the call is settled."""

TRANSITIONS: dict[State, frozenset[State]] = {
    State.DENIED: frozenset(),
    State.AWAITING_APPROVAL: frozenset({State.PREPARED, State.EXPIRED, State.REJECTED}),
    State.EXPIRED: frozenset(),
    State.REJECTED: frozenset(),
    State.PREPARED: frozenset({State.SENT, State.FAILED}),
    State.SENT: frozenset({State.EXECUTED, State.FAILED, State.TIMEOUT, State.UNKNOWN}),
    State.EXECUTED: frozenset(),
    State.FAILED: frozenset(),
    State.TIMEOUT: frozenset(),
    State.UNKNOWN: frozenset({State.RECONCILED, State.COMPENSATED, State.ABANDONED}),
    State.RECONCILED: frozenset(),
    State.COMPENSATED: frozenset(),
    State.ABANDONED: frozenset(),
}

PENDING = frozenset({State.PREPARED, State.SENT})
"""Under way: they count as BUSY."""


def first_state(kind: Kind) -> State:
    """How a claimed call begins."""
    return State.SENT if kind is Kind.PURE else State.PREPARED


def state_without_reply(kind: Kind) -> State:
    """How a call that was sent ends when no reply could be read: time-out, reset, cancel, crash."""
    return State.UNKNOWN if kind is Kind.MUTATING else State.TIMEOUT


NEVER_SENT = "NEVER_SENT"
"""The code of a call that a crash ended before it was sent. Its idempotency key is free again."""
EFFECT_UNKNOWN = "EFFECT_UNKNOWN"
"""The code of a mutating call that ended without a parsed reply."""
NO_REPLY = "NO_REPLY"
"""The code of a read or pure call that ended without one."""
