"""The policy: who may take which edge, what each state needs, who approves which gate, how fast; versioned."""

import enum
import hashlib
from dataclasses import dataclass
from typing import Any

from nanoclaw_core.canonical import canonical
from nanoclaw_governance.task import TRANSITIONS, Gate, State, TaskType

POLICY_VERSION = "1.0.0"
"""Raised with every change of a table below; a test pins the digest of the tables to it."""


class Relation(enum.StrEnum):
    """What a caller is to a task."""

    ADMIN = "admin"
    """An operator with the role admin."""
    APPROVER = "approver"
    """An operator with the role approver: may approve every gate, and do what a gate's approver does."""
    MAIN = "main"
    """The group main: an agent too, so some things are not for it."""
    ASSIGNED_GROUP = "assigned_group"
    GATE_APPROVER = "gate_approver"
    """The group that approves the task's gate; nobody for gate NONE and human gates."""
    DISPATCHER = "dispatcher"


_ALWAYS = frozenset({Relation.ADMIN, Relation.MAIN})
_JUDGES = _ALWAYS | {Relation.APPROVER, Relation.GATE_APPROVER}
_TO_BLOCKED = _JUDGES | {Relation.ASSIGNED_GROUP, Relation.DISPATCHER}

PERMITTED: dict[tuple[str, str], frozenset[Relation]] = {
    (State.INBOX, State.TRIAGED): _ALWAYS,
    (State.TRIAGED, State.READY): _ALWAYS,
    (State.READY, State.DOING): _ALWAYS | {Relation.ASSIGNED_GROUP, Relation.DISPATCHER},
    (State.DOING, State.REVIEW): _ALWAYS | {Relation.ASSIGNED_GROUP},
    (State.REVIEW, State.APPROVAL): _ALWAYS | {Relation.APPROVER, Relation.DISPATCHER},
    (State.REVIEW, State.DOING): _JUDGES | {Relation.DISPATCHER},
    (State.APPROVAL, State.REVIEW): _JUDGES | {Relation.DISPATCHER},
    (State.APPROVAL, State.DONE): _JUDGES,
    (State.BLOCKED, State.INBOX): _ALWAYS,
    (State.BLOCKED, State.TRIAGED): _ALWAYS,
    (State.BLOCKED, State.READY): _ALWAYS,
    # The assigned group only if it blocked the task from DOING itself: transition.objections.
    (State.BLOCKED, State.DOING): _ALWAYS | {Relation.ASSIGNED_GROUP},
    **{(state, State.BLOCKED): _TO_BLOCKED for state, targets in TRANSITIONS.items() if State.BLOCKED in targets},
}

NEEDS_REASON: frozenset[tuple[str, str]] = frozenset(
    {edge for edge in PERMITTED if edge[1] == State.BLOCKED}
    | {(State.REVIEW, State.DOING), (State.APPROVAL, State.REVIEW)}
)

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    State.DOING: ("NO_ASSIGNED_GROUP", "PRODUCT_PAUSED", "PRODUCT_KILLED"),
    State.REVIEW: ("NO_POSSIBLE_APPROVER",),
    State.DONE: ("GATE_NOT_APPROVED",),
}
"""Codes of what a target needs, whatever the source."""

STRICT_REQUIREMENTS: dict[str, tuple[str, ...]] = {
    State.DOING: ("MISSING_DOD_CHECKLIST", "EVIDENCE_REQUIRED_NOT_SET"),
    State.REVIEW: ("MISSING_REVIEW_SUMMARY",),
    State.DONE: (
        "MISSING_DOD_CHECKLIST",
        "DOD_INCOMPLETE",
        "DOCS_NOT_UPDATED",
        "MISSING_EVIDENCE_LINK",
        "OVERRIDE_MISSING_BY",
        "OVERRIDE_MISSING_REASON",
        "OVERRIDE_MISSING_ACCEPTED_RISK",
        "OVERRIDE_MISSING_REVIEW_DEADLINE",
    ),
}
"""The same, in strict mode, on top."""

APPROVER_GROUPS: dict[str, str] = {
    Gate.SECURITY: "security",
    Gate.REVOPS: "main",
    Gate.CLAIMS: "main",
    Gate.PRODUCT: "main",
}

DOCS_REQUIRED: frozenset[str] = frozenset({TaskType.SECURITY, TaskType.REVOPS, TaskType.INCIDENT, TaskType.FEATURE})
"""Task types that are done, in strict mode, only with their docs updated."""

RATES: dict[str, tuple[int, int]] = {"transition": (60, 30), "approve": (30, 20)}
"""Facts of an action that a group may cause in 60 seconds: main, and any other."""

MAX_REWORK_ROUNDS = 3
"""After more the dispatcher blocks the task."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The tables above, and what an operator's settings say.

    strict: the strict requirements hold. trust_main: main may do what else only admins can: override, kill, revive.
    rate_factor: what the rates of groups are multiplied by, for teams that are larger than those they were made for.
    """

    strict: bool = False
    trust_main: bool = False
    rate_factor: int = 1
    version: str = POLICY_VERSION

    def rate(self, action: str, group: str) -> int:
        """How many facts of the action the group may cause in a minute."""
        of_main, of_others = RATES[action]
        return (of_main if group == "main" else of_others) * self.rate_factor


def digest() -> str:
    """SHA-256, hex, over the policy tables."""
    tables: dict[str, Any] = {
        "permitted": [[*edge, *sorted(who)] for edge, who in sorted(PERMITTED.items())],
        "needs_reason": sorted(NEEDS_REASON),
        "requirements": REQUIREMENTS,
        "strict_requirements": STRICT_REQUIREMENTS,
        "approver_groups": APPROVER_GROUPS,
        "docs_required": sorted(DOCS_REQUIRED),
        "rates": RATES,
        "max_rework_rounds": MAX_REWORK_ROUNDS,
    }
    return hashlib.sha256(canonical(tables).encode()).hexdigest()
