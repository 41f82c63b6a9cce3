"""An explanation says what the transition would answer, all of it, and writes nothing."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance import transitions
from nanoclaw_governance.draft import new_task
from nanoclaw_governance.explanation import explain, subject_of
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.task import State
from nanoclaw_governance.transition import Move, decide

STATES = st.sampled_from([str(state) for state in State])
CALLERS = [
    Caller("operator:founder", Role.ADMIN),
    Caller("operator:ana", Role.APPROVER),
    Caller("operator:vic", Role.VIEWER),
    Caller("service:dispatcher"),
    *(Caller(f"group:{name}") for name in ("main", "developer", "security", "stranger")),
    Caller("group:developer", attempt="nc-1"),
]


@st.composite
def tasks(draw):
    """Any task, possible or not."""
    state = draw(STATES)
    blocked = (
        {"blocked_from": draw(st.sampled_from(["DOING", "READY"])), "blocked_by": "group:developer"}
        if state == "BLOCKED"
        else {}
    )
    return new_task(
        "t1",
        title="t",
        task_type=draw(st.sampled_from(["BUG", "FEATURE"])),
        state=state,
        assigned_group=draw(st.sampled_from(["", "developer", "security", "main"])),
        gate=draw(st.sampled_from(["NONE", "SECURITY", "PRODUCT"])),
        human_gate=draw(st.integers(0, 1)),
        executors=draw(st.sampled_from(["[]", '["group:developer"]', '["group:security","operator:founder"]'])),
        approved_by=draw(st.sampled_from(["", "group:security", "operator:ana"])),
        product_id=draw(st.sampled_from(["", "p"])),
        product_status=draw(st.sampled_from(["ACTIVE", "PAUSED", "KILLED"])),
        checklist=draw(st.sampled_from(["[]", '[{"done":true,"text":"x"}]', '[{"done":false,"text":"x"}]'])),
        evidence_required=draw(st.sampled_from([None, 0, 1])),
        attempts=draw(st.sampled_from(["[]", '[["developer","nc-2",2]]'])),
        version=3,
        **blocked,
    )


MOVES = st.builds(
    Move, STATES, st.sampled_from(["", "because"]), st.sampled_from(["", "done"]), st.sampled_from([None, 2, 3])
)
POLICIES = st.builds(Policy, strict=st.booleans())


@settings(max_examples=600, suppress_health_check=list(HealthCheck))
@given(task=tasks(), move=MOVES, caller=st.sampled_from(CALLERS), policy=POLICIES)
def test_it_agrees_with_the_decision(task, move, caller, policy) -> None:
    """allowed and would_change are what decide would do, and what decide refuses with is among the violations."""
    decision = decide(task, move, caller, policy, "2026-11-21T12:00:00.000000Z")
    explanation = explain(task, move, caller, policy)
    assert explanation.allowed == (decision.refusal is None)
    assert explanation.would_change == (decision.changes is not None)
    codes = [violation.code for violation in explanation.violations]
    if decision.refusal:
        assert decision.refusal.reason in codes
        assert {violation.code for violation in decision.refusal.violations} <= set(codes)
        if codes != ["NO_SUCH_EDGE"]:
            assert explanation.next_steps
    if explanation.would_change and caller.principal.startswith("group:"):
        assert caller.principal in explanation.permitted


@settings(max_examples=300)
@given(task=tasks(), to=STATES)
def test_who_is_named_as_permitted_is(task, to) -> None:
    """A group or service that is named may take the edge as far as its rights go; one that is not may not."""
    named = explain(task, Move(to), CALLERS[0], Policy()).permitted
    for caller in CALLERS[3:-1]:
        codes = {violation.code for violation in explain(task, Move(to), caller, Policy()).violations}
        rights = {"NOT_PERMITTED", "SELF_APPROVAL", "HUMAN_GATE", "NO_SUCH_EDGE"}
        if to != task.state:
            assert (caller.principal in named) == (not codes & rights)


async def test_it_gathers_every_stage_and_writes_nothing(strict, people) -> None:
    """A stale version, missing rights and missing things, with the steps in order."""
    task = await strict.at("READY")
    rows = len(strict.log())
    found = strict.database.read(
        lambda tx: transitions.explain_move(
            tx, people.admin, people.security, strict.policy, task.id, Move("DOING", expected_version=1)
        )
    )
    assert [violation.code for violation in found.violations] == [
        "STALE_VERSION",
        "NOT_PERMITTED",
        "MISSING_DOD_CHECKLIST",
        "EVIDENCE_REQUIRED_NOT_SET",
    ]
    assert found.permitted == ("group:main", "group:developer", "operator:*", "service:dispatcher")
    assert len(found.next_steps) == 4
    assert len(strict.log()) == rows


async def test_a_rate_that_is_used_up_is_told(kernel, people) -> None:
    """What only the database knows is part of the answer."""
    task = await kernel.at("DOING")
    for _ in range(15):
        await kernel.move(people.developer, task, "BLOCKED")
        await kernel.move(people.developer, task, "DOING")
    found = kernel.database.read(
        lambda tx: transitions.explain_move(
            tx, people.developer, people.developer, kernel.policy, task.id, Move("BLOCKED", "why")
        )
    )
    assert [violation.code for violation in found.violations] == ["RATE_LIMITED"]
    assert not found.allowed


def test_only_admins_and_services_ask_for_others(people, refused) -> None:
    """An agent learns about itself."""
    assert subject_of("group:developer", people.admin).principal == "group:developer"
    assert subject_of("operator:ana", people.dispatcher).is_admin
    assert subject_of("group:main", people.main) is people.main
    for caller in (people.main, people.approver, people.viewer):
        with refused("NOT_PERMITTED"):
            subject_of("group:developer", caller)
    for nonsense in ("developer", "group:", "robot:x"):
        with pytest.raises(Exception, match="as_principal"):
            subject_of(nonsense, people.admin)
