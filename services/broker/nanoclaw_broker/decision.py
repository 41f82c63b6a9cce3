"""What is decided about a call."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.facts import Recorded
from nanoclaw_broker.policy import Check


class Outcome(enum.Enum):
    """What comes of a decision."""

    ALLOW = "allow"
    DENY = "deny"
    AWAIT = "await"
    """Nothing is wrong but that it has not got its votes: it waits for them."""
    REPLAY = "replay"
    """It is in the ledger already: the recorded answer, nothing is executed."""
    ASK_TASK = "ask_task"
    """The task must be read from governance first."""
    ASK_APPROVALS = "ask_approvals"
    """And its approvals."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, by which check, and what it rested on.

    code: stable, OK where allowed. recorded: the call to answer with (REPLAY). capability: what it rests on, if one
    was found. facts: as text; they also hold what to know about a call that was allowed, such as a soft quota.
    """

    outcome: Outcome
    check: Check
    code: str = "OK"
    message: str = "allowed"
    facts: Mapping[str, str] = field(default_factory=dict)
    capability: Capability | None = None
    recorded: Recorded | None = None
    passing: bool = False
    """Of a refusal: what stands in the way may be gone in an hour, beyond what its check says of that."""


def deny(check: Check, code: str, message: str, capability: Capability | None = None, /, **known: object) -> Decision:
    """A refusal by `check`. known: the facts it rests on."""
    facts = {name: str(value) for name, value in known.items()}
    return Decision(Outcome.DENY, check, code, message, facts, capability)
