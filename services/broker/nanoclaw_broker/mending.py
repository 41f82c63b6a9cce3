"""Facts as they would be if what was refused were put right, one refusal after the other; for `remedy`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from nanoclaw_broker.breaker import Circuit
from nanoclaw_broker.budget import MICROS_PER_CENT
from nanoclaw_broker.capability import Capability, smallest_grant
from nanoclaw_broker.checks.votes import grounds_of
from nanoclaw_broker.decision import Decision
from nanoclaw_broker.excerpt import some
from nanoclaw_broker.facts import Facts, Signature, Task, Usage
from nanoclaw_broker.policy import RATE_SECONDS, TASK_STATES_TO_REVIEW, TASK_STATES_TO_WRITE, Check, Level
from nanoclaw_broker.vote import Ballot, Vote
from nanoclaw_core.clock import from_text, to_text


@dataclass(slots=True)
class Mending:
    """The facts as they would be, and what was done to get there."""

    facts: Facts
    steps: list[str] = field(default_factory=list)
    grant: Capability | None = None
    wait_until: str = ""

    def grant_smallest(self) -> bool:
        facts, ask = self.facts, self.facts.ask
        wanted = Capability(ask.group, ask.provider, facts.declared, (ask.action,), product_id=facts.wanted_product)
        skill = facts.skill
        self.grant = smallest_grant(facts.capabilities, wanted, skill.levels, skill.unverified, facts.now)
        others = (c for c in facts.capabilities if c.product_id != self.grant.product_id)
        self.facts = replace(facts, capabilities=(*others, self.grant))
        return True

    def mend_task(self, step: str, **changes: object) -> bool:
        """As if the task were as it must be, which no grant brings about."""
        assert self.facts.task is not None
        self.facts = replace(self.facts, task=replace(self.facts.task, **changes))  # type: ignore[arg-type]
        self.steps.append(step)
        return True

    def name_task(self, step: str, live_gates: frozenset[str] = frozenset()) -> bool:
        """As if a task had been named that is the group's and under way, of a product that it has a grant for."""
        products = [capability.product_id for capability in self.facts.capabilities]
        product = "" if "" in products or not products else min(products)
        task = Task(
            "another",
            state="DOING",
            scope="PRODUCT" if product else "COMPANY",
            product_id=product,
            assigned_group=self.facts.ask.group,
            live_gates=live_gates,
        )
        self.facts = replace(self.facts, task=task, task_read=True)
        self.steps.append(step)
        return True


def mend(mending: Mending, decision: Decision) -> bool:
    """Puts right what was refused; False where nothing would, and then the last step says so."""
    if decision.check is Check.PARAMS:
        return _params(mending, decision)
    return _MEND[decision.code](mending, decision)


def _grant(mending: Mending, _: Decision) -> bool:
    return mending.grant_smallest()


def _sign(mending: Mending, _: Decision) -> bool:
    mending.facts = replace(mending.facts, ask=replace(mending.facts.ask, signature=Signature.VALID))
    mending.steps.append("sign the request with the mailbox's .ipc_secret")
    return True


def _new_request_id(mending: Mending, _: Decision) -> bool:
    mending.facts = replace(mending.facts, seen=None)
    mending.steps.append("send it under a new request_id")
    return True


def _unfreeze(mending: Mending, _: Decision) -> bool:
    """Only the freezes that stop this call; others may stay."""
    level = mending.facts.declared
    stopping = [one for one in mending.facts.freezes if one.stops(level)]
    mending.facts = replace(mending.facts, freezes=tuple(one for one in mending.facts.freezes if one not in stopping))
    mending.steps.extend(f"an admin must lift the freeze of {one.target} ({one.reason})" for one in stopping)
    return True


def _wait_for_pending(mending: Mending, _: Decision) -> bool:
    usage = mending.facts.usage
    mending.facts = replace(mending.facts, usage=replace(usage, pending=0))
    mending.steps.append("wait until one of the group's calls has ended, then send it again")
    return True


def _no_such_provider(mending: Mending, _: Decision) -> bool:
    mending.steps.append(f"name a provider that there is: {', '.join(mending.facts.skill.providers) or 'none'}")
    return False


def _no_such_action(mending: Mending, _: Decision) -> bool:
    skill = mending.facts.skill
    mending.steps.append(f"name an action of {mending.facts.ask.provider}: {some(skill.levels)}")
    return False


def _add_secrets(mending: Mending, _: Decision) -> bool:
    missing = ", ".join(mending.facts.skill.missing_secrets)
    mending.facts = replace(mending.facts, skill=replace(mending.facts.skill, missing_secrets=()))
    mending.steps.append(f"an operator must give the broker the secret {missing}")
    return True


def _task_not_found(mending: Mending, _: Decision) -> bool:
    return mending.name_task(f"name a task that exists{_or_none(mending)}")


def _task_not_yours(mending: Mending, _: Decision) -> bool:
    return mending.name_task(f"name a task that is assigned to {mending.facts.ask.group}{_or_none(mending)}")


def _or_none(mending: Mending) -> str:
    return "" if mending.facts.level >= Level.L3 else ", or none"


def _stale_attempt(mending: Mending, _: Decision) -> bool:
    mending.steps.append("nothing: another attempt has taken over, stop working on the task")
    return False


def _task_state(mending: Mending, _: Decision) -> bool:
    task = mending.facts.task
    assert task is not None
    writing = mending.facts.level > Level.L1
    needed = sorted(TASK_STATES_TO_WRITE if writing else TASK_STATES_TO_REVIEW)
    return mending.mend_task(f"have task {task.id} moved to {' or '.join(needed)}", state=needed[0])


def _task_required(mending: Mending, decision: Decision) -> bool:
    gate = decision.facts["requires_task_gate"]
    if not gate:
        return mending.name_task("name a task of yours that is under way")
    return mending.name_task(f"name a task of yours with its {gate} gate approved", live_gates=frozenset({gate}))


def _gate_not_approved(mending: Mending, decision: Decision) -> bool:
    gate, task = decision.facts["requires_task_gate"], mending.facts.task
    assert task is not None
    return mending.mend_task(f"have the {gate} gate of task {task.id} approved", live_gates=frozenset({gate}))


def _params(mending: Mending, _: Decision) -> bool:
    skill = mending.facts.skill
    mending.steps.extend(problem.next_step or f"mend the parameters: {problem.message}" for problem in skill.problems)
    mending.facts = replace(mending.facts, skill=replace(skill, problems=()))
    return True


def _new_key(mending: Mending, _: Decision) -> bool:
    mending.facts = replace(mending.facts, keyed=None)
    mending.steps.append("send it under a new idempotency_key, if it is to happen besides the earlier one")
    return True


def _wait(mending: Mending, until: str, usage: Usage) -> bool:
    mending.wait_until = max(mending.wait_until, until)
    mending.facts = replace(mending.facts, usage=usage)
    mending.steps.append(f"send it again at {until}")
    return True


def _wait_for_rate(mending: Mending, decision: Decision) -> bool:
    until = to_text(from_text(decision.facts["oldest_in_window"]) + timedelta(seconds=RATE_SECONDS))
    return _wait(mending, until, replace(mending.facts.usage, rate_edge=""))


def _wait_for_midnight(mending: Mending, decision: Decision) -> bool:
    return _wait(mending, decision.facts["retry_at"], replace(mending.facts.usage, today=0))


def _raise_budget(mending: Mending, decision: Decision) -> bool:
    """The smallest limit under which it passes; a day's also renews itself, if the limit is large enough at all."""
    budget, who, period = mending.facts.budget, decision.facts["budget_group"], decision.facts["period"]
    line = next(one for one in budget.lines if (one.group, one.period.value) == (who, period))
    cents = line.cents_for(budget.worst_micros)
    whose = f"the budget of {who}" if who else "the budget of all groups together"
    mending.steps.append(f"ask for less, or have an operator raise {whose} for a {period} to {cents} cents")
    if "retry_at" in decision.facts and budget.worst_micros <= line.limit_cents * MICROS_PER_CENT:
        mending.wait_until = max(mending.wait_until, decision.facts["retry_at"])
        mending.steps[-1] += f", or send it again at {decision.facts['retry_at']}"
    lines = tuple(replace(one, limit_cents=cents) if one is line else one for one in budget.lines)
    mending.facts = replace(mending.facts, budget=replace(budget, lines=lines))
    return True


def _resume_spending(mending: Mending, _: Decision) -> bool:
    mending.facts = replace(mending.facts, budget=replace(mending.facts.budget, frozen_reason=""))
    mending.steps.append("have an operator look at the overrun and let the group spend again")
    return True


def _wait_for_circuit(mending: Mending, decision: Decision) -> bool:
    until = decision.facts["retry_at"]
    mending.wait_until = max(mending.wait_until, until)
    mending.facts = replace(mending.facts, circuit=Circuit(mending.facts.circuit.name))
    mending.steps.append(f"send it again at {until}; until then {mending.facts.circuit.name} is left alone")
    return True


def _ask_anew(mending: Mending, _: Decision) -> bool:
    mending.facts = replace(mending.facts, ballot=None)
    mending.steps.append("ask for it anew: what it was asked under has moved")
    return True


def _vote(mending: Mending, decision: Decision) -> bool:
    """As if just as many voted as it takes."""
    facts = mending.facts
    needed, operator = int(decision.facts["votes_needed"]), decision.facts["operator_needed"] == "true"
    ballot = facts.ballot or Ballot("", grounds_of(facts, decision.capability))
    # Nobody can be called so: no group, no operator.
    parties = ["operator:*" if operator else "*", *(f"*{number}" for number in range(1, needed))]
    cast = tuple(Vote(party, party, ballot.params_digest) for party in parties)
    mending.facts = replace(facts, ballot=replace(ballot, votes=(*ballot.votes, *cast)))
    who = "two principals" if needed > 1 else "one more principal"
    mending.steps.append(f"have {who} approve the call once it is asked for{', an operator among them' * operator}")
    return True


_MEND: dict[str, Callable[[Mending, Decision], bool]] = {
    "SIGNATURE_MISSING": _sign,
    "SIGNATURE_WRONG": _sign,
    "REQUEST_ID_REUSED": _new_request_id,
    "FROZEN": _unfreeze,
    "BUSY": _wait_for_pending,
    "UNKNOWN_PROVIDER": _no_such_provider,
    "UNKNOWN_ACTION": _no_such_action,
    "SECRETS_MISSING": _add_secrets,
    "NO_CAPABILITY": _grant,
    "CAPABILITY_EXPIRED": _grant,
    "LEVEL_TOO_LOW": _grant,
    "ACTION_DENIED": _grant,
    "ACTION_NOT_ALLOWED": _grant,
    "PRODUCT_SCOPE": _grant,
    "TASK_NOT_FOUND": _task_not_found,
    "TASK_NOT_YOURS": _task_not_yours,
    "STALE_ATTEMPT": _stale_attempt,
    "TASK_STATE": _task_state,
    "TASK_REQUIRED": _task_required,
    "GATE_NOT_APPROVED": _gate_not_approved,
    "IDEMPOTENCY_KEY_REUSED": _new_key,
    "RATE_LIMITED": _wait_for_rate,
    "QUOTA_EXHAUSTED": _wait_for_midnight,
    "BUDGET_EXCEEDED": _raise_budget,
    "BUDGET_FROZEN": _resume_spending,
    "CIRCUIT_OPEN": _wait_for_circuit,
    "APPROVAL_VOID": _ask_anew,
    "APPROVAL_PENDING": _vote,
}
