"""What the decision about a call rests on: local facts from the claiming transaction, remote ones read before it."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from nanoclaw_broker.breaker import Circuit
from nanoclaw_broker.budget import Budget
from nanoclaw_broker.capability import Capability, choose, level_under
from nanoclaw_broker.freeze import Freeze
from nanoclaw_broker.ledger import State
from nanoclaw_broker.policy import RATE_SECONDS, Lane, Level, Limits
from nanoclaw_broker.vote import Ballot
from nanoclaw_core.clock import from_text, to_text


class Signature(enum.Enum):
    """What the gateway says about the file that a call came from."""

    VALID = "valid"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a group asks for. params_hmac: keyed hash of provider, action and parameters."""

    group: str
    request_id: str
    provider: str
    action: str
    params_hmac: str
    task_id: str = ""
    idempotency_key: str = ""
    attempt: str = ""
    signature: Signature = Signature.VALID
    lane: Lane = Lane.CALL

    @property
    def is_main(self) -> bool:
        """Whether the group main asks."""
        return self.group == "main"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the parameters. code: stable; INVALID_PARAMS where the schema says so.

    passing: whether the same parameters may be taken in an hour.
    """

    code: str
    message: str
    next_step: str = ""
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Skill:
    """What the providers say of the action asked for.

    levels: of each action of the provider, empty where there is no such provider. missing_secrets: names of those that
    the provider needs and the broker has not. problems: of the parameters. providers: the names there are. unverified:
    what actions need under a grant that says allow_unverified, of those for which that makes a difference. cost_micros:
    what it costs at the most. circuit: whose breaker it meets; empty: none.
    """

    providers: tuple[str, ...] = ()
    levels: Mapping[str, Level] = field(default_factory=dict)
    missing_secrets: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    unverified: Mapping[str, Level] = field(default_factory=dict)
    cost_micros: int = 0
    circuit: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """What governance says of the task named, at most a second ago.

    found: whether it exists. live_gates: gates with a live approval; None: not asked. bound_attempt: the attempt that
    may act for the asking group, empty where none is bound. gate: its own, empty for none. executors: principals.
    """

    id: str
    found: bool = True
    version: int = 0
    state: str = ""
    scope: str = "COMPANY"
    product_id: str = ""
    assigned_group: str = ""
    approver_group: str = ""
    bound_attempt: str = ""
    live_gates: frozenset[str] | None = None
    gate: str = ""
    executors: frozenset[str] = frozenset()

    def concerns(self, group: str) -> bool:
        """Whether the group may know of it: main, whoever it is assigned to, and its gate's approver."""
        return group in ("main", self.assigned_group, self.approver_group)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call of the same group that is in the ledger already."""

    call_id: str
    state: State
    provider: str
    action: str
    params_hmac: str
    task_id: str
    idempotency_key: str

    def same_effect(self, ask: Ask) -> bool:
        """Whether it was for the same action and parameters."""
        return (self.provider, self.action, self.params_hmac) == (ask.provider, ask.action, ask.params_hmac)

    def same_request(self, ask: Ask) -> bool:
        """Whether it was the same request, word for word."""
        return self.same_effect(ask) and (self.task_id, self.idempotency_key) == (ask.task_id, ask.idempotency_key)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the group has used at the action's level.

    pending: calls under way. claims: ever, so the number of the last one. rate_edge: when the claim was made that lies
    a whole rate ago, empty where there were fewer. today: claims since midnight UTC.
    """

    pending: int = 0
    claims: int = 0
    rate_edge: str = ""
    today: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that `call.decide` looks at.

    now: TEXT. task: None where none was named, and `task_read` False where one was named and governance has not been
    asked yet. freezes: those in force for the group, the provider or all. ballot: of a call that waits for votes, when
    it is decided about again.
    """

    ask: Ask
    skill: Skill
    now: str
    seen: Recorded | None = None
    keyed: Recorded | None = None
    usage: Usage = Usage()
    capabilities: tuple[Capability, ...] = ()
    task: Task | None = None
    task_read: bool = True
    limits: Limits = field(default_factory=Limits)
    freezes: tuple[Freeze, ...] = ()
    budget: Budget = field(default_factory=Budget)
    circuit: Circuit = field(default_factory=Circuit)
    ballot: Ballot | None = None

    @property
    def rate_horizon(self) -> str:
        """The moment before which claims no longer count for the rate, TEXT."""
        return to_text(from_text(self.now) - timedelta(seconds=RATE_SECONDS))

    @property
    def midnight(self) -> str:
        """The next one (UTC), TEXT."""
        return midnight_after(self.now)

    @property
    def declared(self) -> Level:
        """What the action needs whatever a grant says; L0 where it is not known."""
        return self.skill.levels.get(self.ask.action, Level.L0)

    @property
    def level(self) -> Level:
        """What the action needs under the grant that the call rests on; L0 where it is not known."""
        unverified = self.skill.unverified.get(self.ask.action)
        if unverified is None:
            return self.declared
        capability, _ = choose(self.capabilities, self.wanted_product, main=self.ask.is_main)
        return level_under(capability, self.declared, unverified)

    @property
    def under_way(self) -> "Facts":
        """The same for a call that was claimed before: what it met then, and what it takes up itself, left out."""
        budget = self.budget.holding()
        return replace(self, seen=None, keyed=None, usage=Usage(), budget=budget, circuit=Circuit())

    @property
    def wanted_product(self) -> str:
        """The product that a capability must be for: that of the task, if it is the group's to name and has one."""
        task = self.task
        if task is None or not task.found or not task.concerns(self.ask.group) or task.scope != "PRODUCT":
            return ""
        return task.product_id


def midnight_after(moment: str) -> str:
    """The next midnight (UTC) after a moment, both TEXT."""
    tomorrow = from_text(moment) + timedelta(days=1)
    return to_text(tomorrow.replace(hour=0, minute=0, second=0, microsecond=0))
