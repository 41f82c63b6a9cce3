"""Checks 9 to 13: the grant that the call rests on."""

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, deny
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import Check, Level


def held(facts: Facts, capability: Capability | None) -> Decision | None:
    """9. A live capability, else L0."""
    if capability is not None:
        return None
    return deny(
        Check.CAPABILITY,
        "NO_CAPABILITY",
        f"group {facts.ask.group} has no grant for {facts.ask.provider}",
        level_held=Level.L0.name,
    )


def expiry(facts: Facts, capability: Capability | None) -> Decision | None:
    """10. It has not ended."""
    assert capability is not None
    if not capability.expired(facts.now):
        return None
    return deny(
        Check.EXPIRY,
        "CAPABILITY_EXPIRED",
        f"the grant for {facts.ask.provider} ended at {capability.expires_at}",
        capability,
        expires_at=capability.expires_at,
    )


def level(facts: Facts, capability: Capability | None) -> Decision | None:
    """11. It reaches as far as the action needs."""
    assert capability is not None
    if facts.level <= capability.level:
        return None
    return deny(
        Check.LEVEL,
        "LEVEL_TOO_LOW",
        f"{facts.ask.action} needs {facts.level.name}, the grant is {capability.level.name}",
        capability,
    )


def denied_actions(facts: Facts, capability: Capability | None) -> Decision | None:
    """12. Deny wins."""
    assert capability is not None
    if facts.ask.action not in capability.denied:
        return None
    message = f"the grant denies {facts.ask.action}"
    return deny(Check.DENIED_ACTIONS, "ACTION_DENIED", message, capability, denied_actions=" ".join(capability.denied))


def allowed_actions(facts: Facts, capability: Capability | None) -> Decision | None:
    """13. Where the grant names actions, this is one of them."""
    assert capability is not None
    if not capability.allowed or facts.ask.action in capability.allowed:
        return None
    return deny(
        Check.ALLOWED_ACTIONS,
        "ACTION_NOT_ALLOWED",
        f"the grant does not name {facts.ask.action}",
        capability,
        allowed_actions=" ".join(capability.allowed),
    )
