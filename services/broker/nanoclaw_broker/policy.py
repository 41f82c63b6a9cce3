"""What holds for every call: access levels, limits and their defaults, and the version of all that."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from nanoclaw_broker.breaker import FAILURES, OPEN_SECONDS, WINDOW_SECONDS
from nanoclaw_core.canonical import canonical

POLICY_VERSION = "1.3.0"
"""Raised with every change of what `tables` answers; stored on every call and every row of the log."""


class Level(enum.IntEnum):
    """How much an action may do, and how much a group may."""

    L0 = 0
    """No access: the default."""
    L1 = 1
    """Read."""
    L2 = 2
    """Write; a grant of it ends after 7 days at the latest."""
    L3 = 3
    """Deploy, merge, pay: what can't be repeated safely."""


class Lane(enum.StrEnum):
    """The way that a call came; each has limits of its own, so that thinking does not use up what acting may do."""

    CALL = ""
    """One by one: a file, or an RPC."""
    RELAY = "relay"
    """Through an attempt's model relay."""


class Check(enum.IntEnum):
    """The checks of a call, in their order; the first that fails decides. The numbers are the design's."""

    FIELDS = 1
    CREDENTIAL = 2
    REQUEST_ID = 3
    KILL_SWITCH = 4
    BUSY = 5
    PROVIDER = 6
    ACTION = 7
    SECRETS = 8
    CAPABILITY = 9
    EXPIRY = 10
    LEVEL = 11
    DENIED_ACTIONS = 12
    ALLOWED_ACTIONS = 13
    TASK = 14
    PARAMS = 15
    IDEMPOTENCY = 16
    LIMITS = 17
    VOTES = 18
    CLAIM = 19


COUNTED = frozenset({"SIGNATURE_MISSING", "SIGNATURE_WRONG", "REQUEST_ID_REUSED", "BUSY", "RATE_LIMITED"})
"""Refusals that are counted in one row per group, code and minute: anybody could make any number of them."""

GATES = ("Security", "RevOps", "Claims", "Product")
"""The gates that a capability may require."""

TASK_STATES_TO_WRITE = frozenset({"DOING", "APPROVAL"})
TASK_STATES_TO_REVIEW = frozenset({"REVIEW", "APPROVAL"})

GRANT_CEILING_SECONDS = 7 * 24 * 3600
"""How long a grant of L2 or above lasts at most."""

VOTES_NEEDED = 2
"""On an L3 call, of different parties."""

APPROVAL_SECONDS = 24 * 3600
"""How long an L3 call waits for its votes at most."""

RATE_SECONDS = 60
"""The window of the rates: any 60 seconds, not the minutes of the clock."""

MAIN_RATE_PERCENT = 150
"""Main's rates, in percent of the others'."""


def _per_level(l1: int, l2: int, l3: int) -> Mapping[Level, int]:
    return {Level.L1: l1, Level.L2: l2, Level.L3: l3}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a group may do; all counted inside the transaction that claims, so they hold exactly.

    pending: calls under way at once. rate: claims in any 60 seconds. soft, hard: claims a day (UTC); soft warns.
    step_cents, day_cents: what one call may cost at the most, and the calls of a day, where no budget is set.
    approval_seconds: how long an L3 call waits for its votes. operator_votes: whether one of them must be a person's.
    """

    pending: int = 5
    rate: Mapping[Level, int] = field(default_factory=lambda: _per_level(20, 10, 2))
    soft: Mapping[Level, int] = field(default_factory=lambda: _per_level(800, 250, 10))
    hard: Mapping[Level, int] = field(default_factory=lambda: _per_level(1200, 350, 15))
    step_cents: int = 100
    day_cents: int = 10_000

    approval_seconds: int = APPROVAL_SECONDS
    operator_votes: bool = True

    def rate_for(self, group: str, level: Level) -> int:
        """Claims in any 60 seconds."""
        rate = self.rate[level]
        return rate * MAIN_RATE_PERCENT // 100 if group == "main" else rate


def _relay_limits() -> Limits:
    return Limits(
        pending=4,
        rate=_per_level(60, 60, 2),
        soft=_per_level(3000, 3000, 10),
        hard=_per_level(5000, 5000, 15),
    )


RELAY_LIMITS = _relay_limits()
"""Of what comes through relays; `pending` is each attempt's there."""


def tables() -> str:
    """The policy as one text; a test pins its digest, so that it can't change under the same version."""
    limits = Limits()
    return canonical(
        {
            "levels": {level.name: level.value for level in Level},
            "checks": {check.name: check.value for check in Check},
            "counted": sorted(COUNTED),
            "gates": list(GATES),
            "write": sorted(TASK_STATES_TO_WRITE),
            "review": sorted(TASK_STATES_TO_REVIEW),
            "ceiling": GRANT_CEILING_SECONDS,
            "window": RATE_SECONDS,
            "main": MAIN_RATE_PERCENT,
            "votes": [VOTES_NEEDED, APPROVAL_SECONDS, limits.operator_votes],
            "pending": limits.pending,
            "step_cents": limits.step_cents,
            "day_cents": limits.day_cents,
            "breaker": [FAILURES, WINDOW_SECONDS, OPEN_SECONDS],
            **_as_table(limits),
            "relay": {"pending": RELAY_LIMITS.pending, **_as_table(RELAY_LIMITS)},
        }
    )


def _as_table(limits: Limits) -> dict[str, dict[str, int]]:
    return {name: {level.name: n for level, n in getattr(limits, name).items()} for name in ("rate", "soft", "hard")}
