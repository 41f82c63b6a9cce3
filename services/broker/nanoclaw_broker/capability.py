"""A capability: what a group may do with a provider; which one applies, and the smallest one that would."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanoclaw_broker.policy import Level


@dataclass(frozen=True, slots=True)
class Capability:
    """One live grant. Times are TEXT; `expires_at` is empty where it does not expire."""

    group: str
    provider: str
    level: Level
    allowed: tuple[str, ...] = ()
    """Empty: every action up to the level."""
    denied: tuple[str, ...] = ()
    """Deny wins."""
    requires_task_gate: str = ""
    product_id: str = ""
    """Empty: company-wide."""
    expires_at: str = ""
    id: str = ""
    allow_unverified: bool = False
    """Actions whose end can't be verified may be called at their `unverified_level`."""
    changes: int = 0
    """How often it was granted and revoked; what rests on it is void once that has moved."""

    def expired(self, now: str) -> bool:
        """Whether it has ended: at its very end it has."""
        return self.expires_at != "" and self.expires_at <= now


class ActionStatus(enum.StrEnum):
    """What an action is to a group, in the words of `ext_capabilities.json`."""

    AVAILABLE = "available"
    REQUIRES_HIGHER_LEVEL = "requires_higher_level"
    DENIED = "DENIED"


def level_under(capability: Capability | None, level: Level, unverified: Level | None) -> Level:
    """What an action of `level` needs under a grant: its unverified level, if it has one and the grant accepts that."""
    if unverified is None or capability is None or not capability.allow_unverified:
        return level
    return min(level, unverified)


def status_of(capability: Capability, action: str, level: Level) -> ActionStatus:
    """What `action`, which needs `level` under a capability that is live, is to the group."""
    if action in capability.denied or (capability.allowed and action not in capability.allowed):
        return ActionStatus.DENIED
    return ActionStatus.AVAILABLE if level <= capability.level else ActionStatus.REQUIRES_HIGHER_LEVEL


def choose(capabilities: Sequence[Capability], product_id: str, *, main: bool) -> tuple[Capability | None, bool]:
    """The capability that a call for `product_id` (empty: none, the company) rests on, and whether it covers it.

    The exact one first; main may use a company-wide one for a product. Where none covers it, one that does not is
    answered, so that the checks before the scope can say what else is wrong.
    """
    by_product = {capability.product_id: capability for capability in capabilities}
    exact = by_product.get(product_id)
    if exact is not None:
        return exact, True
    company_wide = by_product.get("")
    if company_wide is not None:
        return company_wide, main
    return (by_product[min(by_product)], False) if by_product else (None, False)


def smallest_grant(
    capabilities: Sequence[Capability],
    wanted: Capability,
    levels: Mapping[str, Level],
    unverified: Mapping[str, Level],
    now: str,
) -> Capability:
    """The smallest grant that lets a group do one thing more, without taking anything from it.

    wanted: group, provider, product and level of the one action in its `allowed`. levels, unverified: of the actions of
    the provider. What has expired gives nothing, so nothing of it is renewed but its restrictions. That ends need not
    be verified is kept where it was granted and never proposed: it leaves the votes out.
    """
    (action,) = wanted.allowed
    held = next((c for c in capabilities if c.product_id == wanted.product_id), None)
    if held is None:
        return wanted
    denied = tuple(name for name in held.denied if name != action)
    allowed: tuple[str, ...] = (action,)
    level, waived = wanted.level, False
    if not held.expired(now):
        waived = held.allow_unverified
        level = max(level_under(held, level, unverified.get(action)), held.level)
        open_now = {
            name
            for name, needs in levels.items()
            if level_under(held, needs, unverified.get(name)) <= held.level and name in (held.allowed or levels)
        }
        if level > held.level:  # a higher level must open this one action only
            allowed = tuple(sorted({action} | open_now))
        else:
            allowed = tuple(sorted({*held.allowed, action})) if held.allowed else ()
    return Capability(
        group=wanted.group,
        provider=wanted.provider,
        level=level,
        allowed=allowed,
        denied=denied,
        requires_task_gate=held.requires_task_gate,
        product_id=wanted.product_id,
        allow_unverified=waived,
    )
