"""Check 18: the two-man rule for what can't be repeated safely."""

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, Outcome, deny
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import POLICY_VERSION, Check, Level
from nanoclaw_broker.vote import Grounds, missing


def grounds(facts: Facts, capability: Capability | None) -> Decision | None:
    """18. Task, grant and policy are as they were when it was asked for."""
    if facts.ballot is None:
        return None
    moved = facts.ballot.grounds.moved(grounds_of(facts, capability))
    if not moved:
        return None
    words = " and ".join(moved)
    return deny(
        Check.VOTES, "APPROVAL_VOID", f"{words} moved since it was asked for", capability, moved=" ".join(moved)
    )


def grounds_of(facts: Facts, capability: Capability | None) -> Grounds:
    """What the call rests on as things are."""
    return Grounds(
        task_version=facts.task.version if facts.task is not None else 0,
        capability_id=capability.id if capability is not None else "",
        capability_changes=capability.changes if capability is not None else 0,
        policy_version=POLICY_VERSION,
    )


def votes(facts: Facts, capability: Capability | None) -> Decision | None:
    """18. Two parties voted for this very call, none of them asked or executed, one is an operator."""
    if facts.level < Level.L3:
        return None
    executors = facts.task.executors if facts.task is not None else frozenset()
    needed = missing(facts.ballot, facts.ask.group, executors, operator_needed=facts.limits.operator_votes)
    if not needed.votes:
        return None
    return Decision(
        Outcome.AWAIT,
        Check.VOTES,
        "APPROVAL_PENDING",
        f"an L3 call needs votes: {needed.votes} more{', an operator among them' if needed.operator else ''}",
        {"votes_needed": str(needed.votes), "operator_needed": str(needed.operator).lower()},
        capability,
    )
