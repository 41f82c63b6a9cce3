"""Check 17, its second half: what it may cost, and whether the other side is in trouble."""

from nanoclaw_broker.breaker import BreakerState
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, deny
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import Check


def budget(facts: Facts, capability: Capability | None) -> Decision | None:
    """17. The most that it can cost fits into every budget, also besides what is under way."""
    spending = facts.budget
    if spending.worst_micros == 0:
        return None
    if spending.frozen_reason:
        return deny(
            Check.LIMITS,
            "BUDGET_FROZEN",
            f"group {facts.ask.group} spends nothing for now: {spending.frozen_reason}",
            capability,
            needed_micros=spending.worst_micros,
        )
    line = spending.exceeded
    if line is None:
        return None
    whose = f"group {line.group}" if line.group else "all groups together"
    return deny(
        Check.LIMITS,
        "BUDGET_EXCEEDED",
        f"the call may cost more than the budget of {whose} for a {line.period} leaves",
        capability,
        needed_micros=spending.worst_micros,
        left_micros=line.left_micros,
        limit_cents=line.limit_cents,
        period=line.period.value,
        budget_group=line.group,
        **({"retry_at": facts.midnight} if line.period == "day" else {}),
    )


def circuit(facts: Facts, capability: Capability | None) -> Decision | None:
    """17. The other side has not just failed again and again."""
    breaker = facts.circuit
    if breaker.lets_through(facts.now):
        return None
    probing = breaker.state(facts.now) is BreakerState.HALF_OPEN
    return deny(
        Check.LIMITS,
        "CIRCUIT_OPEN",
        f"{breaker.name} is being tried by another call" if probing else f"{breaker.name} has failed again and again",
        capability,
        circuit=breaker.name,
        retry_at=facts.now if probing else breaker.retry_at,
    )
