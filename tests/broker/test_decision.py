"""The decision: every check alone decides, in the order of the design, and what a denial suggests makes it pass."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import call, refusals
from nanoclaw_broker.breaker import Circuit
from nanoclaw_broker.budget import Budget, Line, Period
from nanoclaw_broker.call import AFTER_TASK, BEFORE_TASK, decide
from nanoclaw_broker.capability import Capability, level_under
from nanoclaw_broker.checks import votes
from nanoclaw_broker.decision import Outcome
from nanoclaw_broker.facts import Ask, Facts, Problem, Recorded, Signature, Skill, Task, Usage
from nanoclaw_broker.freeze import Freeze, Scope
from nanoclaw_broker.ledger import State
from nanoclaw_broker.policy import POLICY_VERSION, Check, Level, Limits
from nanoclaw_broker.remedy import mended, remedy
from nanoclaw_broker.vote import Ballot, Grounds, Vote

NOW = "2026-11-21T12:00:00.000000Z"
HORIZON = "2026-11-21T11:59:00.000000Z"
RECENT = "2026-11-21T11:59:30.000000Z"
LATER, BEFORE = "2026-11-22T12:00:00.000000Z", "2026-11-20T12:00:00.000000Z"

OPEN = Circuit("count", (), RECENT)
LEVELS = {"look": Level.L1, "add": Level.L2, "drop": Level.L2, "launch": Level.L3, "send": Level.L3}
UNVERIFIED = {"send": Level.L2}
HELD = Capability("developer", "count", Level.L2, expires_at=LATER, id="c1")
FREEZE = Freeze(Scope.PROVIDER, "count", Level.L1, "an incident")
DOING = Task("t1", version=3, state="DOING", assigned_group="developer")
HELD3 = replace(HELD, level=Level.L3)
FOR = Vote("operator:ana", "operator:ana", "d"), Vote("group:main", "main", "d")


def ballot(*votes: Vote, **moved: Any) -> Ballot:
    """The votes for a call that was asked for DOING under HELD3."""
    grounds = {"task_version": 3, "capability_id": "c1", "capability_changes": 0, "policy_version": POLICY_VERSION}
    return Ballot("d", Grounds(**grounds | moved), votes)


def facts(action: str = "add", **changes: Any) -> Facts:
    """A call that passes, with changes; those named like a field of Ask are the request's."""
    asked = {name: changes.pop(name) for name in list(changes) if name in Ask.__dataclass_fields__}
    base = Facts(
        ask=Ask(
            **{"group": "developer", "request_id": "r1", "provider": "count", "action": action, "params_hmac": "h"}
            | asked
        ),
        skill=Skill(("count", "json"), LEVELS, unverified=UNVERIFIED),
        now=NOW,
        capabilities=(HELD,),
    )
    return replace(base, **changes)


def recorded(**changes: Any) -> Recorded:
    return replace(Recorded("call1", State.EXECUTED, "count", "add", "h", "", ""), **changes)


def launch(**changes: Any) -> Facts:
    """A call of L3 that passes, with its votes."""
    base = {"task_id": "t1", "task": APPROVED, "capabilities": (HELD3,), "ballot": ballot(*FOR)}
    return facts("launch", **base | changes)


APPROVED = replace(DOING, gate="Product", live_gates=frozenset({"Product"}))

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
    "LEVEL_TOO_LOW without the waiver": facts("send"),
    "TASK_REQUIRED for L3": launch(task=None, task_id="", ballot=ballot(*FOR, task_version=0)),
    "GATE_NOT_APPROVED of the task's own": launch(task=replace(APPROVED, live_gates=frozenset())),
    "APPROVAL_VOID": launch(ballot=ballot(*FOR, task_version=2)),
}
"""Each code of the design, by facts in which nothing else is wrong; what comes after the code tells cases apart."""

AWAITED: dict[str, Facts] = {
    "nobody has asked before": launch(ballot=None),
    "one vote": launch(ballot=ballot(FOR[0])),
    "two of the same party": launch(ballot=ballot(FOR[0], replace(FOR[0], principal="operator:ben"))),
    "no operator": launch(ballot=ballot(FOR[1], Vote("group:security", "security", "d"))),
    "of the group that asked": launch(ballot=ballot(FOR[0], Vote("group:developer", "developer", "d"))),
    "of an executor": launch(task=replace(APPROVED, executors=frozenset({"group:main"}))),
    "of a person that executed": launch(task=replace(APPROVED, executors=frozenset({"operator:ana"}))),
    "for other parameters": launch(ballot=ballot(FOR[0], replace(FOR[1], params_digest="other"))),
}
"""Calls with nothing wrong but that there are not two votes that count."""

REPLAYED = {
    "request_id": facts(seen=recorded()),
    "idempotency": facts(idempotency_key="k", keyed=recorded(idempotency_key="k", task_id="other")),
}


def test_a_call_with_nothing_wrong_is_allowed() -> None:
    """The base that the other tests change one thing of."""
    decision = decide(facts())
    assert (decision.outcome, decision.check, decision.code) == (Outcome.ALLOW, Check.CLAIM, "OK")
    assert decision.capability == HELD


def test_a_call_of_l3_with_its_votes_is_allowed() -> None:
    """And under a grant that accepts what nobody can verify, so is one without: it needs L2 only."""
    assert decide(launch()).outcome is Outcome.ALLOW
    waived = facts("send", capabilities=(replace(HELD, allow_unverified=True),))
    assert (waived.level, waived.declared, decide(waived).outcome) == (Level.L2, Level.L3, Outcome.ALLOW)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_has_its_code_and_facts(case: str) -> None:
    """Every refusal says under a stable code which check decided, and what it rested on."""
    decision = decide(REFUSED[case])
    assert (decision.outcome, decision.code) == (Outcome.DENY, code_of(case))
    assert decision.message
    assert refusals.what_is_known(REFUSED[case], decision)["check"].startswith(str(int(decision.check)))
    assert remedy(REFUSED[case]).steps


def code_of(case: str) -> str:
    return case.partition(" ")[0]


@pytest.mark.parametrize("case", AWAITED)
def test_a_call_of_l3_waits_for_two_votes_that_count(case: str) -> None:
    """Of different parties, for the very parameters, none by who asked or executed, one by an operator."""
    decision = decide(AWAITED[case])
    assert (decision.outcome, decision.check, decision.code) == (Outcome.AWAIT, Check.VOTES, "APPROVAL_PENDING")


def test_votes_of_groups_alone_are_enough_where_no_operator_is_required() -> None:
    """NANOCLAW_BROKER_L3_REQUIRES_OPERATOR=0."""
    without = replace(AWAITED["no operator"], limits=Limits(operator_votes=False))
    assert decide(without).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("moved", "what"),
    [
        ({"task_version": 2}, "task"),
        ({"capability_id": "c0"}, "grant"),
        ({"capability_changes": 1}, "grant"),
        ({"policy_version": "0.9"}, "policy"),
        ({"task_version": 2, "policy_version": "0.9"}, "task policy"),
    ],
)
def test_votes_are_void_when_what_the_call_rests_on_has_moved(moved: dict[str, Any], what: str) -> None:
    """Task, grant or policy: each alone, whatever the votes."""
    decision = decide(launch(ballot=ballot(*FOR, **moved)))
    assert (decision.code, decision.facts["moved"]) == ("APPROVAL_VOID", what)


@pytest.mark.parametrize("rule", [*BEFORE_TASK, *AFTER_TASK], ids=lambda rule: rule.__name__)
def test_each_check_is_needed(rule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking any one rule out lets something pass that it alone refused."""
    mine = [case for case, one in REFUSED.items() if _decides(rule, one, code_of(case))]
    if rule is votes.votes:
        mine = list(AWAITED)
    assert mine, "no case shows what this rule is for"
    monkeypatch.setattr(call, "BEFORE_TASK", tuple(one for one in BEFORE_TASK if one is not rule))
    monkeypatch.setattr(call, "AFTER_TASK", tuple(one for one in AFTER_TASK if one is not rule))
    for case in mine:
        if case in ("UNKNOWN_PROVIDER", "UNKNOWN_ACTION", "NO_CAPABILITY"):
            assert _code(REFUSED[case]) != case  # what comes later misses what is missing, and refuses or breaks
        elif case.startswith("LEVEL_TOO_LOW without"):
            assert _code(REFUSED[case]) == "TASK_REQUIRED"  # a call of L3 needs more than a grant
        else:
            assert _code((REFUSED | AWAITED)[case]) == "OK", case


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
        ballot=Ballot("d", Grounds(0, "", 0, "")),
        capabilities=(),
        task=None,
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
        ("TASK_REQUIRED", lambda f: replace(f, task=Task("t1", found=False))),
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
        ("APPROVAL_VOID", lambda f: replace(f, ballot=None)),
        ("AWAIT", lambda f: replace(f, ballot=ballot(*FOR, task_version=0))),
    ]
    last = Check.FIELDS
    for code, mended_by in steps:
        decision = decide(wrong)
        assert (decision.code if decision.outcome is Outcome.DENY else decision.outcome.name) == code
        assert decision.check >= last
        last = decision.check
        wrong = mended_by(wrong)
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
    level=st.sampled_from([Level.L1, Level.L2, Level.L3]),
    allow_unverified=st.booleans(),
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
    live_gates=st.sampled_from([frozenset(), frozenset({"Security"}), frozenset({"Security", "Product"})]),
    gate=st.sampled_from(["", "Product"]),
    executors=st.sampled_from([frozenset(), frozenset({"group:main"})]),
)
freezes = st.builds(
    Freeze,
    st.sampled_from(list(Scope)),
    st.just("x"),
    st.sampled_from([Level.L0, Level.L1, Level.L2]),
    st.just("an incident"),
)
ballots = st.builds(
    lambda version, cast: ballot(*cast, task_version=version, capability_id=""),
    st.sampled_from([0, 1]),
    st.sampled_from([(), FOR[:1], FOR[1:], FOR]),
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
    lambda action, caps, named, pending, edge, today, secrets, problems, key, keyed, main, signature, budget, *rest: (
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
            skill=Skill(("count",), LEVELS, secrets, problems, UNVERIFIED),
            keyed=keyed if key else None,
            budget=budget,
            circuit=rest[0],
            freezes=rest[1],
            ballot=rest[2],
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
    st.lists(freezes, max_size=2).map(tuple),
    st.none() | ballots,
)


@settings(max_examples=500)
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
        assert one.ask.action == "fly" or mended.steps[-1].startswith("nothing:")
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
        allow_unverified=request.allow_unverified,
    )
    others = tuple(c for c in one.capabilities if c.product_id != granted.product_id)
    assert decide(replace(one, capabilities=(*others, granted))).outcome in (Outcome.ALLOW, Outcome.REPLAY)


@settings(max_examples=300)
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


@settings(max_examples=500)
@given(anything)
def test_the_whole_remedy_passes_and_no_part_of_it_can_be_left_out(one: Facts) -> None:
    """With everything that the steps say it passes; with any one part of it undone, or a lesser grant, it does not."""
    if not remedy(one).passable:
        return
    whole, _ = mended(one)
    assert decide(whole.facts).outcome in PASSING
    parts: list[Facts] = []
    for name in ("seen", "keyed", "capabilities", "task", "freezes", "budget", "circuit"):
        parts.append(replace(whole.facts, **{name: getattr(one, name)}))
    for name in ("pending", "rate_edge", "today"):
        parts.append(replace(whole.facts, usage=replace(whole.facts.usage, **{name: getattr(one.usage, name)})))
    for name in ("missing_secrets", "problems"):
        parts.append(replace(whole.facts, skill=replace(whole.facts.skill, **{name: getattr(one.skill, name)})))
    parts.append(replace(whole.facts, ask=replace(whole.facts.ask, signature=one.ask.signature)))
    if whole.facts.ballot is not None:
        cast = whole.facts.ballot.votes
        before = one.ballot.votes if one.ballot is not None else ()
        added = [vote for vote in cast if vote not in before]
        for vote in added:
            fewer = tuple(other for other in cast if other is not vote)
            parts.append(replace(whole.facts, ballot=replace(whole.facts.ballot, votes=fewer)))
    if whole.grant is not None:
        others = tuple(c for c in whole.facts.capabilities if c != whole.grant)
        parts += [replace(whole.facts, capabilities=(*others, less)) for less in lesser(whole.grant, one.ask.action)]
    for part in parts:
        if part != whole.facts:
            assert decide(part).outcome not in PASSING, part


PASSING = (Outcome.ALLOW, Outcome.REPLAY)


def lesser(grant: Capability, action: str) -> list[Capability]:
    """Grants that give a little less of what the action needs."""
    less = [replace(grant, denied=(*grant.denied, action))]
    others = tuple(name for name in (grant.allowed or LEVELS) if name != action)
    less.append(replace(grant, allowed=others or ("other",)))
    if level_under(grant, LEVELS[action], UNVERIFIED.get(action)) == grant.level > Level.L1:
        less.append(replace(grant, level=Level(grant.level - 1)))
    return less


@settings(max_examples=300)
@given(anything)
def test_a_suggested_grant_is_no_higher_than_the_call_or_what_is_held(one: Facts) -> None:
    """It never adds the waiver, and goes no further than the action needs or the group has."""
    grant = remedy(one).grant
    if grant is None:
        return
    before = next((c for c in one.capabilities if c.product_id == grant.product_id and not c.expired(NOW)), None)
    assert grant.allow_unverified is (before is not None and before.allow_unverified)
    needs = level_under(grant, LEVELS[one.ask.action], UNVERIFIED.get(one.ask.action))
    assert grant.level == max(needs, before.level if before is not None else Level.L0)


def _open(capability: Capability, name: str, level: Level) -> bool:
    return (
        level_under(capability, level, UNVERIFIED.get(name)) <= capability.level
        and name not in capability.denied
        and (not capability.allowed or name in capability.allowed)
    )


@settings(max_examples=300)
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
