"""Checks 5 and 17: how much at once, how much a minute and a day."""

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, deny
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import RATE_SECONDS, Check, Lane


def busy(facts: Facts, _: Capability | None) -> Decision | None:
    """5. So many calls of a group at once, no more; through a relay, of an attempt."""
    limit = facts.limits.pending
    if facts.usage.pending < limit:
        return None
    whose = "attempt" if facts.ask.lane is Lane.RELAY else "group"
    return deny(
        Check.BUSY,
        "BUSY",
        f"the {whose} has {facts.usage.pending} calls under way",
        pending=facts.usage.pending,
        limit=limit,
    )


def rate(facts: Facts, capability: Capability | None) -> Decision | None:
    """17. So many in any minute."""
    edge, limit = facts.usage.rate_edge, facts.limits.rate_for(facts.ask.group, facts.level)
    if edge == "" or edge <= facts.rate_horizon:
        return None
    return deny(
        Check.LIMITS,
        "RATE_LIMITED",
        f"group {facts.ask.group} has made {limit} {facts.level.name} calls within {RATE_SECONDS} s",
        capability,
        limit=limit,
        window_seconds=RATE_SECONDS,
        oldest_in_window=edge,
    )


def quota(facts: Facts, capability: Capability | None) -> Decision | None:
    """17. So many a day."""
    today, limit = facts.usage.today, facts.limits.hard[facts.level]
    if today < limit:
        return None
    return deny(
        Check.LIMITS,
        "QUOTA_EXHAUSTED",
        f"group {facts.ask.group} has made its {limit} {facts.level.name} calls of today",
        capability,
        used=today,
        limit=limit,
        retry_at=facts.midnight,
    )
