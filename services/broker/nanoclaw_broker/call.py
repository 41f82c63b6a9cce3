"""Whether a call may happen: one pure function over gathered facts, check by check, the first that fails decides."""

from collections.abc import Callable

from nanoclaw_broker.capability import Capability, choose
from nanoclaw_broker.checks import freeze, grant, limits, provider, request, spending, task, votes
from nanoclaw_broker.decision import Decision, Outcome
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import Check

Rule = Callable[[Facts, Capability | None], Decision | None]

BEFORE_TASK: tuple[Rule, ...] = (
    request.credential,  # 2
    request.request_id,  # 3
    freeze.kill_switch,  # 4
    limits.busy,  # 5
    provider.provider,  # 6
    provider.action,  # 7
    provider.secrets,  # 8
)
AFTER_TASK: tuple[Rule, ...] = (
    grant.held,  # 9
    grant.expiry,  # 10
    grant.level,  # 11
    grant.denied_actions,  # 12
    grant.allowed_actions,  # 13
    task.required,  # 14
    task.task,  # 14
    task.scope,  # 14
    task.task_gate,  # 14
    provider.params,  # 15
    request.idempotency,  # 16
    limits.rate,  # 17
    limits.quota,  # 17
    spending.budget,  # 17
    spending.circuit,  # 17
    votes.grounds,  # 18
    votes.votes,  # 18
)
"""In the order of `policy.Check`. 1 is over when there are facts, 19 to 21 are deeds."""


def decide(facts: Facts) -> Decision:
    """The decision about a call. No clock, no I/O, no randomness.

    Which capability applies depends on the task's product, so the task is read before check 9; its rules are check 14.
    """
    for rule in BEFORE_TASK:
        decision = rule(facts, None)
        if decision is not None:
            return decision
    if not facts.task_read:
        return Decision(Outcome.ASK_TASK, Check.CAPABILITY)
    capability, _ = choose(facts.capabilities, facts.wanted_product, main=facts.ask.is_main)
    for rule in AFTER_TASK:
        decision = rule(facts, capability)
        if decision is not None:
            return decision
    return Decision(Outcome.ALLOW, Check.CLAIM, facts=_worth_knowing(facts, capability), capability=capability)


def _worth_knowing(facts: Facts, capability: Capability | None) -> dict[str, str]:
    known: dict[str, str] = {}
    soft = facts.limits.soft[facts.level]
    if facts.usage.today >= soft:
        known["quota_warning"] = f"{facts.usage.today + 1} of {facts.limits.hard[facts.level]} today"
    if facts.wanted_product and capability is not None and capability.product_id != facts.wanted_product:
        known["company_wide_for_product"] = facts.wanted_product
    return known
