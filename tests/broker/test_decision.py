"""The decision: every check alone decides, in the order of the design, and what a denial suggests makes it pass."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import call, refusals
from nanoclaw_broker.breaker import Circuit
from nanoclaw_broker.budget import Budget, Line, Period
from nanoclaw_broker.call import AFTER_TASK, BEFORE_TASK, decide
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Outcome
from nanoclaw_broker.facts import Ask, Facts, Problem, Recorded, Signature, Skill, Task, Usage
from nanoclaw_broker.freeze import Freeze, Scope
from nanoclaw_broker.ledger import State
from nanoclaw_broker.policy import Check, Level, Limits
from nanoclaw_broker.remedy import remedy

NOW = "2026-11-21T12:00:00.000000Z"
HORIZON = "2026-11-21T11:59:00.000000Z"
RECENT = "2026-11-21T11:59:30.000000Z"
LATER, BEFORE = "2026-11-22T12:00:00.000000Z", "2026-11-20T12:00:00.000000Z"

LEVELS = {"look": Level.L1, "add": Level.L2, "drop": Level.L2, "launch": Level.L3}
OPEN = Circuit("count", (), RECENT)
HELD = Capability("developer", "count", Level.L2, expires_at=LATER, id="c1")
FREEZE = Freeze(Scope.PROVIDER, "count", Level.L1, "an incident")
DOING = Task("t1", version=3, state="DOING", assigned_group="developer")


def facts(action: str = "add", **changes: Any) -> Facts:
    """A call that passes, with changes; those named like a field of Ask are the request's."""
    asked = {name: changes.pop(name) for name in list(changes) if name in Ask.__dataclass_fields__}
    base = Facts(
        ask=Ask(
            **{"group": "developer", "request_id": "r1", "provider": "count", "action": action, "params_hmac": "h"}
            | asked
        ),
        skill=Skill(("count", "json"), LEVELS),
        now=NOW,
        capabilities=(HELD,),
    )
    return replace(base, **changes)


def recorded(**changes: Any) -> Recorded:
    return replace(Recorded("call1", State.EXECUTED, "count", "add", "h", "", ""), **changes)


REFUSED: dict[str, Facts] = {
    "SIGNATURE_MISSING": facts(signature=Signature.MISSING),
    "SIGNATURE_WRONG": facts(signature=Signature.WRONG),
    "REQUEST_ID_REUSED": facts(seen=recorded(params_hmac="other")),
    "FROZEN": facts(freezes=(FREEZE,)),
    "BUSY": facts(usage=Usage(pending=5)),
    "UNKNOWN_PROVIDER": facts(skill=Skill(("json",))),
    "UNKNOWN_ACTION": facts("fly"),
    "SECRETS_MISSING": facts(skill=Skill(("count",), LEVELS, ("count_token",))),
    "NO_CAPABILITY": facts(capabilities=()),
    "CAPABILITY_EXPIRED": facts(capabilities=(replace(HELD, expires_at=NOW),)),
    "LEVEL_TOO_LOW": facts(capabilities=(replace(HELD, level=Level.L1),)),
    "ACTION_DENIED": facts(capabilities=(replace(HELD, denied=("add",)),)),
    "ACTION_NOT_ALLOWED": facts(capabilities=(replace(HELD, allowed=("drop",)),)),
    "TASK_NOT_FOUND": facts(task_id="t1", task=Task("t1", found=False)),
    "TASK_NOT_YOURS": facts(task_id="t1", task=replace(DOING, assigned_group="sales")),
    "STALE_ATTEMPT": facts(task_id="t1", attempt="a1", task=replace(DOING, bound_attempt="a2")),
    "TASK_STATE": facts(task_id="t1", task=replace(DOING, state="REVIEW")),
    "PRODUCT_SCOPE": facts(task_id="t1", task=replace(DOING, scope="PRODUCT", product_id="p1")),
    "TASK_REQUIRED": facts(capabilities=(replace(HELD, requires_task_gate="Security"),)),
    "GATE_NOT_APPROVED": facts(
        task_id="t1",
        task=replace(DOING, live_gates=frozenset({"Product"})),
        capabilities=(replace(HELD, requires_task_gate="Security"),),
    ),
    "INVALID_PARAMS": facts(skill=Skill(("count",), LEVELS, (), (Problem("INVALID_PARAMS", "text: missing"),))),
    "IDEMPOTENCY_KEY_REUSED": facts(idempotency_key="k", keyed=recorded(idempotency_key="k", params_hmac="other")),
    "RATE_LIMITED": facts(usage=Usage(claims=10, rate_edge=RECENT)),
    "QUOTA_EXHAUSTED": facts(usage=Usage(claims=350, today=350)),
    "BUDGET_EXCEEDED": facts(budget=Budget(1_000_001, (Line("developer", Period.STEP, 100),))),
    "BUDGET_FROZEN": facts(budget=Budget(1, (), "a call cost more")),
    "CIRCUIT_OPEN": facts(circuit=OPEN),
    "L3_NOT_AVAILABLE": facts("launch", capabilities=(replace(HELD, level=Level.L3),)),
}
"""Each code of the design, by facts in which nothing else is wrong."""

REPLAYED = {
    "request_id": facts(seen=recorded()),
    "idempotency": facts(idempotency_key="k", keyed=recorded(idempotency_key="k", task_id="other")),
}


def test_a_call_with_nothing_wrong_is_allowed() -> None:
    """The base that the other tests change one thing of."""
    decision = decide(facts())
    assert (decision.outcome, decision.check, decision.code) == (Outcome.ALLOW, Check.CLAIM, "OK")
    assert decision.capability == HELD


@pytest.mark.parametrize("code", REFUSED)
def test_what_is_wrong_has_its_code_and_facts(code: str) -> None:
    """Every refusal says under a stable code which check decided, and what it rested on."""
    decision = decide(REFUSED[code])
    assert (decision.outcome, decision.code) == (Outcome.DENY, code)
    assert decision.message
    assert refusals.what_is_known(REFUSED[code], decision)["check"].startswith(str(int(decision.check)))


@pytest.mark.parametrize("rule", [*BEFORE_TASK, *AFTER_TASK], ids=lambda rule: rule.__name__)
def test_each_check_is_needed(rule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking any one rule out lets something pass that it alone refused."""
    mine = [code for code, one in REFUSED.items() if _decides(rule, one, code)]
    assert mine, "no case shows what this rule is for"
    monkeypatch.setattr(call, "BEFORE_TASK", tuple(one for one in BEFORE_TASK if one is not rule))
    monkeypatch.setattr(call, "AFTER_TASK", tuple(one for one in AFTER_TASK if one is not rule))
    for code in mine:
        if code in ("UNKNOWN_PROVIDER", "UNKNOWN_ACTION", "NO_CAPABILITY"):
            assert _code(REFUSED[code]) != code  # what comes later misses what is missing, and refuses or breaks
        else:
            assert _code(REFUSED[code]) == "OK", code


def _code(one: Facts) -> str:
    try:
        return decide(one).code
    except (AssertionError, KeyError):
        return "broken"


def _decides(rule: Callable[..., Any], one: Facts, code: str) -> bool:
    if rule in BEFORE_TASK:
        decision = rule(one, None)
    else:
        capability = decide(one).capability
        decision = rule(one, capability) if capability is not None or rule.__name__ == "held" else None
    return decision is not None and decision.code == code


def test_the_first_check_that_fails_decides() -> None:
    """Everything wrong at once: mended one by one, the codes come in the order of the design."""
    wrong = facts(
        "launch",
        task_id="t1",
        idempotency_key="k",
        attempt="a1",
        signature=Signature.MISSING,
        seen=recorded(params_hmac="other"),
        freezes=(FREEZE,),
        usage=Usage(pending=5, claims=15, rate_edge=RECENT, today=15),
        skill=Skill(("count",), LEVELS, ("s",), (Problem("INVALID_PARAMS", "bad"),)),
        capabilities=(),
        task=Task("t1", found=False),
        keyed=recorded(params_hmac="other"),
        budget=Budget(1_000_001, (Line("developer", Period.STEP, 100),), "a call cost more"),
        circuit=OPEN,
    )
    bad = replace(
        HELD, level=Level.L1, expires_at=BEFORE, denied=("launch",), allowed=("look",), requires_task_gate="Security"
    )
    steps: list[tuple[str, Callable[[Facts], Facts]]] = [
        ("SIGNATURE_MISSING", lambda f: replace(f, ask=replace(f.ask, signature=Signature.VALID))),
        ("REQUEST_ID_REUSED", lambda f: replace(f, seen=None)),
        ("FROZEN", lambda f: replace(f, freezes=())),
        ("BUSY", lambda f: replace(f, usage=replace(f.usage, pending=4))),
        ("SECRETS_MISSING", lambda f: replace(f, skill=replace(f.skill, missing_secrets=()))),
        ("NO_CAPABILITY", lambda f: replace(f, capabilities=(bad,))),
        ("CAPABILITY_EXPIRED", lambda f: held(f, expires_at=LATER)),
        ("LEVEL_TOO_LOW", lambda f: held(f, level=Level.L3)),
        ("ACTION_DENIED", lambda f: held(f, denied=())),
        ("ACTION_NOT_ALLOWED", lambda f: held(f, allowed=())),
        ("TASK_NOT_FOUND", lambda f: replace(f, task=Task("t1", state="REVIEW", scope="PRODUCT", product_id="p"))),
        ("TASK_NOT_YOURS", lambda f: task(f, assigned_group="developer", bound_attempt="a2")),
        ("STALE_ATTEMPT", lambda f: task(f, bound_attempt="a1")),
        ("TASK_STATE", lambda f: task(f, state="DOING")),
        ("PRODUCT_SCOPE", lambda f: held(f, product_id="p")),
        ("ASK_APPROVALS", lambda f: task(f, live_gates=frozenset())),
        ("GATE_NOT_APPROVED", lambda f: task(f, live_gates=frozenset({"Security"}))),
        ("INVALID_PARAMS", lambda f: replace(f, skill=replace(f.skill, problems=()))),
        ("IDEMPOTENCY_KEY_REUSED", lambda f: replace(f, keyed=None)),
        ("RATE_LIMITED", lambda f: replace(f, usage=replace(f.usage, rate_edge=""))),
        ("QUOTA_EXHAUSTED", lambda f: replace(f, usage=replace(f.usage, today=0))),
        ("BUDGET_FROZEN", lambda f: replace(f, budget=replace(f.budget, frozen_reason=""))),
        ("BUDGET_EXCEEDED", lambda f: replace(f, budget=Budget())),
        ("CIRCUIT_OPEN", lambda f: replace(f, circuit=Circuit("count"))),
        ("L3_NOT_AVAILABLE", lambda f: replace(f, ask=replace(f.ask, action="drop"))),
    ]
    last = Check.FIELDS
    for code, mend in steps:
        decision = decide(wrong)
        assert (decision.code if decision.outcome is Outcome.DENY else decision.outcome.name) == code
        assert decision.check >= last
        last = decision.check
        wrong = mend(wrong)
    assert decide(wrong).outcome is Outcome.ALLOW


def held(one: Facts, **changes: Any) -> Facts:
    return replace(one, capabilities=(replace(one.capabilities[0], **changes),))


def task(one: Facts, **changes: Any) -> Facts:
    assert one.task is not None
    return replace(one, task=replace(one.task, **changes))


@pytest.mark.parametrize("which", REPLAYED)
def test_what_was_answered_is_answered_again(which: str) -> None:
    """The same request_id, or the same key for the same effect: the recorded answer, nothing is executed."""
    decision = decide(REPLAYED[which])
    assert decision.outcome is Outcome.REPLAY
    assert decision.recorded is not None
    assert decision.check is (Check.REQUEST_ID if which == "request_id" else Check.IDEMPOTENCY)


def test_a_replay_of_a_request_needs_no_grant_but_one_by_key_does() -> None:
    """Check 3 comes before the grant, check 16 after it."""
    assert decide(replace(REPLAYED["request_id"], capabilities=())).outcome is Outcome.REPLAY
    assert decide(replace(REPLAYED["idempotency"], capabilities=())).code == "NO_CAPABILITY"


def test_a_named_task_is_read_before_the_grant_is_chosen_and_not_earlier() -> None:
    """Governance is not asked for calls that fail before check 9."""
    unread = facts(task_id="t1", task_read=False)
    assert decide(unread).outcome is Outcome.ASK_TASK
    assert decide(replace(unread, usage=Usage(pending=5))).code == "BUSY"


@pytest.mark.parametrize(
    ("group", "action", "state", "passes"),
    [
        ("developer", "look", "DONE", True),
        ("developer", "add", "DOING", True),
        ("developer", "add", "APPROVAL", True),
        ("developer", "add", "READY", False),
        ("developer", "add", "BLOCKED", False),
        ("security", "look", "REVIEW", True),
        ("security", "look", "APPROVAL", True),
        ("security", "look", "DOING", False),
        ("security", "add", "APPROVAL", False),
        ("sales", "look", "DOING", False),
        ("main", "look", "DOING", True),
        ("main", "add", "DOING", False),
    ],
)
def test_who_may_act_for_a_task(group: str, action: str, state: str, passes: bool) -> None:
    """Writing is the assigned group's in DOING or APPROVAL; reading also main's, and the approver's in review."""
    capability = replace(HELD, group=group)
    named = replace(DOING, state=state, approver_group="security")
    decision = decide(facts(action, group=group, task_id="t1", task=named, capabilities=(capability,)))
    assert (decision.outcome is Outcome.ALLOW) is passes, decision


@pytest.mark.parametrize(
    ("group", "grants", "product", "outcome"),
    [
        ("developer", ("p1",), "p1", "OK"),
        ("developer", ("",), "p1", "PRODUCT_SCOPE"),
        ("developer", ("p2",), "p1", "PRODUCT_SCOPE"),
        ("developer", ("p1",), "", "PRODUCT_SCOPE"),
        ("developer", ("p1", ""), "", "OK"),
        ("main", ("",), "p1", "OK"),
        ("main", ("p2",), "p1", "PRODUCT_SCOPE"),
    ],
)
def test_the_product_of_the_task_decides_which_grant_counts(
    group: str, grants: tuple[str, ...], product: str, outcome: str
) -> None:
    """A PRODUCT task needs a grant for it (main may use a company-wide one, and that is told); others the company's."""
    named = replace(DOING, assigned_group=group, scope="PRODUCT" if product else "COMPANY", product_id=product)
    capabilities = tuple(replace(HELD, group=group, product_id=one) for one in grants)
    decision = decide(facts(group=group, task_id="t1", task=named, capabilities=capabilities))
    assert decision.code == outcome
    assert ("company_wide_for_product" in decision.facts) is (group == "main" and outcome == "OK")


def test_a_grant_for_a_product_does_not_cover_calls_without_a_task() -> None:
    """Without a task there is no product."""
    decision = decide(facts(capabilities=(replace(HELD, product_id="p1"),)))
    assert decision.code == "PRODUCT_SCOPE"


def test_deny_wins_over_allow() -> None:
    """An action on both lists is denied."""
    assert decide(facts(capabilities=(replace(HELD, allowed=("add",), denied=("add",)),))).code == "ACTION_DENIED"


def test_nothing_is_told_of_a_task_that_is_not_the_groups() -> None:
    """A refusal about somebody else's task shows neither its state nor its product."""
    foreign = replace(DOING, assigned_group="sales", scope="PRODUCT", product_id="secret-plan")
    for capabilities in ((HELD,), ()):
        one = facts(task_id="t1", task=foreign, capabilities=capabilities)
        answer = refusals.refusal(one, decide(one))
        assert "secret-plan" not in str(answer)
        assert "DOING" not in answer.message


@pytest.mark.parametrize(("today", "warned"), [(249, False), (250, True), (349, True)])
def test_a_soft_quota_warns_and_lets_pass(today: int, warned: bool) -> None:
    """Past the soft quota the answer says so."""
    decision = decide(facts(usage=Usage(claims=today, today=today)))
    assert decision.outcome is Outcome.ALLOW
    assert ("quota_warning" in decision.facts) is warned


def test_a_claim_a_whole_minute_ago_no_longer_counts() -> None:
    """The window is half open: at exactly 60 s the oldest claim is out of it."""
    assert decide(facts(usage=Usage(claims=10, rate_edge=HORIZON))).outcome is Outcome.ALLOW


def test_main_has_half_as_much_again() -> None:
    """Rates of main are 150 % of the others'."""
    limits = Limits()
    assert [limits.rate_for("main", level) for level in (Level.L1, Level.L2, Level.L3)] == [30, 15, 3]
    assert [limits.rate_for("developer", level) for level in (Level.L1, Level.L2, Level.L3)] == [20, 10, 2]


names = st.sampled_from(sorted(LEVELS))
capabilities = st.builds(
    Capability,
    group=st.just("developer"),
    provider=st.just("count"),
    level=st.sampled_from([Level.L1, Level.L2]),
    allowed=st.lists(names, unique=True, max_size=3).map(tuple),
    denied=st.lists(names, unique=True, max_size=2).map(tuple),
    requires_task_gate=st.sampled_from(["", "", "Security"]),
    product_id=st.sampled_from(["", "p1", "p2"]),
    expires_at=st.sampled_from([LATER, BEFORE]),
)
tasks = st.builds(
    Task,
    id=st.just("t1"),
    found=st.booleans(),
    state=st.sampled_from(["READY", "DOING", "REVIEW", "APPROVAL", "DONE"]),
    scope=st.sampled_from(["COMPANY", "PRODUCT"]),
    product_id=st.just("p1"),
    assigned_group=st.sampled_from(["developer", "sales"]),
    approver_group=st.sampled_from(["", "developer", "security"]),
    bound_attempt=st.sampled_from(["", "a1"]),
    live_gates=st.sampled_from([frozenset(), frozenset({"Security"})]),
)
lines = st.builds(
    Line,
    group=st.sampled_from(["developer", ""]),
    period=st.sampled_from(Period),
    limit_cents=st.integers(0, 200),
    reserved_micros=st.integers(0, 1_000_000),
    spent_micros=st.integers(0, 1_000_000),
)
budgets = st.builds(
    Budget,
    st.sampled_from([0, 1, 500_000, 1_000_001]),
    st.lists(lines, max_size=4, unique_by=lambda line: (line.group, line.period)).map(tuple),
    st.sampled_from(["", "", "a call cost more"]),
)
anything = st.builds(
    lambda action, caps, named, pending, edge, today, secrets, problems, key, keyed, main, signature, budget, circuit: (
        facts(
            action,
            group="main" if main else "developer",
            attempt="a1",
            task_id="t1" if named is not None else "",
            signature=signature,
            idempotency_key=key,
            capabilities=tuple({one.product_id: one for one in caps}.values()),
            task=named,
            usage=Usage(pending, 1, edge, today),
            skill=Skill(("count",), LEVELS, secrets, problems),
            keyed=keyed if key else None,
            budget=budget,
            circuit=circuit,
        )
    ),
    st.sampled_from([*LEVELS, "fly"]),
    st.lists(capabilities, max_size=3),
    st.none() | tasks,
    st.sampled_from([0, 5]),
    st.sampled_from(["", HORIZON, RECENT]),
    st.sampled_from([0, 250, 2000]),
    st.sampled_from([(), ("s",)]),
    st.sampled_from([(), (Problem("HOST_NOT_ALLOWED", "no"),)]),
    st.sampled_from(["", "k"]),
    st.sampled_from([None, recorded(), recorded(params_hmac="other")]),
    st.booleans(),
    st.sampled_from(list(Signature)),
    budgets,
    st.sampled_from([Circuit(), OPEN, Circuit("count", (), BEFORE), Circuit("count", (), BEFORE, "a probe")]),
)


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(anything)
def test_applying_the_suggested_grant_makes_it_pass(one: Facts) -> None:
    """Where a grant is all that is missing, making exactly it, as the server would, lets the call pass."""
    decision = decide(one)
    if decision.outcome is not Outcome.DENY:
        return
    answer = refusals.refusal(one, decision, "c")
    mended = remedy(one)
    assert answer.next_steps or not mended.passable
    assert (answer.facts["passable"] == "true") is mended.passable
    if not mended.passable:
        assert one.ask.action == "fly" or one.level is Level.L3 or mended.steps[-1].startswith("nothing:")
        return
    if mended.grant is None or len(mended.steps) > 1:
        return  # something besides a grant is in the way
    request = json_format.ParseDict(json.loads(answer.facts["grant"]), pb.GrantRequest())
    granted = Capability(
        request.group,
        request.provider,
        Level(request.access_level - 1),
        tuple(request.allowed_actions),
        tuple(request.denied_actions),
        request.requires_task_gate,
        request.product_id,
        expires_at=LATER,
    )
    others = tuple(c for c in one.capabilities if c.product_id != granted.product_id)
    assert decide(replace(one, capabilities=(*others, granted))).outcome in (Outcome.ALLOW, Outcome.REPLAY)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(anything)
def test_a_suggested_grant_opens_one_action_and_takes_none(one: Facts) -> None:
    """It lets through the action asked for, whatever passed before, and nothing else."""
    grant = remedy(one).grant
    if grant is None:
        return
    before = next((c for c in one.capabilities if c.product_id == grant.product_id and not c.expired(NOW)), None)
    for name, level in LEVELS.items():
        passed = before is not None and _open(before, name, level)
        assert _open(grant, name, level) is (passed or name == one.ask.action), name
    assert before is None or grant.requires_task_gate == before.requires_task_gate


def _open(capability: Capability, name: str, level: Level) -> bool:
    return (
        level <= capability.level
        and name not in capability.denied
        and (not capability.allowed or name in capability.allowed)
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(budgets)
def test_the_suggested_budget_is_the_smallest_that_lets_it_pass(budget: Budget) -> None:
    """One cent less, and the call is refused again."""
    one = facts(budget=replace(budget, frozen_reason=""))
    decision = decide(one)
    if decision.outcome is Outcome.ALLOW:
        return
    assert decision.code == "BUDGET_EXCEEDED"
    mended = remedy(one)
    assert mended.passable
    raised = {line: line.cents_for(budget.worst_micros) for line in budget.lines}
    for line, cents in raised.items():
        if cents > line.limit_cents:
            assert any(f"to {cents} cents" in step for step in mended.steps)

    def under(less: int) -> Facts:
        lines = tuple(
            replace(line, limit_cents=cents - less if cents > line.limit_cents else line.limit_cents)
            for line, cents in raised.items()
        )
        return replace(one, budget=replace(one.budget, lines=lines))

    assert decide(under(0)).outcome is Outcome.ALLOW
    assert decide(under(1)).code == "BUDGET_EXCEEDED"
