"""What would make a refused call pass: the smallest grant or narrowing, found by mending one check after another."""

from dataclasses import dataclass, replace

from nanoclaw_broker.call import decide
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Outcome
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.mending import Mending, mend
from nanoclaw_broker.policy import Level

_MOST_STEPS = 20
_PASSING = (Outcome.ALLOW, Outcome.REPLAY)


@dataclass(frozen=True, slots=True)
class Remedy:
    """How a call would pass.

    passable: whether all of it together makes it pass; else `steps` say why nothing does. grant: the grant that is
    needed, if one is. wait_until: TEXT, when a limit is what stands in the way. steps: all of it in words, in order.
    """

    passable: bool
    steps: tuple[str, ...] = ()
    grant: Capability | None = None
    wait_until: str = ""


def remedy(facts: Facts) -> Remedy:
    """What would make a call with these facts pass. Pure; `decide` says of the mended facts that they do."""
    mending, passable = mended(facts)
    steps = list(mending.steps)
    if mending.grant is not None:
        steps.insert(0, f"ask {_who_grants(mending.grant)} for: {describe(mending.grant)}")
    return Remedy(passable, tuple(steps), mending.grant, mending.wait_until)


def mended(facts: Facts) -> tuple[Mending, bool]:
    """The facts with all put right that can be, and whether they pass then."""
    mending = Mending(facts)
    passable = _put_right(mending)
    if passable and mending.grant is not None:
        without = replace(mending.facts, capabilities=facts.capabilities)
        if decide(without).outcome in _PASSING:  # the task that it takes is of a product that there is a grant for
            mending.facts, mending.grant = without, None
    return mending, passable


def _put_right(mending: Mending) -> bool:
    for _ in range(_MOST_STEPS):
        decision = decide(mending.facts)
        if decision.outcome not in (Outcome.DENY, Outcome.AWAIT):
            return decision.outcome in _PASSING
        if not mend(mending, decision):
            return False
    return False


def _who_grants(grant: Capability) -> str:
    return "an admin" if grant.level is Level.L3 or grant.allow_unverified else "main or an operator"


def describe(grant: Capability) -> str:
    """A grant in words."""
    text = f"grant {grant.group} {grant.provider} {grant.level.name}"
    if grant.allowed:
        text += f", actions {' '.join(grant.allowed)}"
    if grant.denied:
        text += f", denied {' '.join(grant.denied)}"
    if grant.requires_task_gate:
        text += f", gate {grant.requires_task_gate}"
    if grant.allow_unverified:
        text += ", allow unverified"
    return text + (f", product {grant.product_id}" if grant.product_id else ", company-wide")
