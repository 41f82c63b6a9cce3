"""Checks 6, 7, 8 and 15: what is asked for exists, can be done, and the parameters fit it."""

from dataclasses import replace

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, deny
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import Check


def provider(facts: Facts, _: Capability | None) -> Decision | None:
    """6. The provider is known."""
    if facts.skill.levels:
        return None
    name = facts.ask.provider
    return deny(Check.PROVIDER, "UNKNOWN_PROVIDER", f"there is no provider {name!r}", provider=name)


def action(facts: Facts, _: Capability | None) -> Decision | None:
    """7. The action is known."""
    if facts.ask.action in facts.skill.levels:
        return None
    provider, action = facts.ask.provider, facts.ask.action
    return deny(
        Check.ACTION, "UNKNOWN_ACTION", f"{provider} has no action {action!r}", provider=provider, action=action
    )


def secrets(facts: Facts, _: Capability | None) -> Decision | None:
    """8. The secrets that the provider needs are there."""
    missing = ", ".join(facts.skill.missing_secrets)
    if not missing:
        return None
    return deny(
        Check.SECRETS,
        "SECRETS_MISSING",
        f"the broker has no secret {missing} for {facts.ask.provider}",
        missing=missing,
    )


def params(facts: Facts, capability: Capability | None) -> Decision | None:
    """15. The parameters are what the action takes."""
    problems = facts.skill.problems
    if not problems:
        return None
    message = "; ".join(problem.message for problem in problems)
    decision = deny(Check.PARAMS, problems[0].code, message, capability, problems=len(problems))
    return replace(decision, passing=all(problem.passing for problem in problems))
