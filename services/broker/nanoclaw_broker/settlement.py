"""What can be said of a call that ended UNKNOWN, by its provider or by a person; pure."""

import enum

from nanoclaw_broker.ledger import State, UnknownEnd


class Outcome(enum.StrEnum):
    """What became of it."""

    HAPPENED = "HAPPENED"
    """It had happened."""
    DID_NOT_HAPPEN = "DID_NOT_HAPPEN"
    """It had not, and it will not."""
    UNDONE = "UNDONE"
    """Whatever had happened has been undone."""
    GIVEN_UP = "GIVEN_UP"
    """Nobody will know."""


STATE: dict[Outcome, State] = {
    Outcome.HAPPENED: State.RECONCILED,
    Outcome.DID_NOT_HAPPEN: State.RECONCILED,
    Outcome.UNDONE: State.COMPENSATED,
    Outcome.GIVEN_UP: State.ABANDONED,
}
CODE: dict[Outcome, str] = {
    Outcome.HAPPENED: "OK",
    Outcome.DID_NOT_HAPPEN: "NOT_DONE",
    Outcome.UNDONE: "UNDONE",
    Outcome.GIVEN_UP: "GIVEN_UP",
}

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 3600.0


def pause_after(tries: int, first_seconds: float = FIRST_SECONDS) -> float:
    """Seconds until the provider is asked again after so many tries: doubling, an hour at the most."""
    return float(min(first_seconds * 2 ** min(tries, 20), LONGEST_SECONDS))


def repeats_an_effect(ends_by: UnknownEnd) -> bool:
    """Whether clearing it up sends something that changes the world, so that freeze and grant must still allow it."""
    return ends_by in (UnknownEnd.PROVIDER_KEY, UnknownEnd.COMPENSATE)
