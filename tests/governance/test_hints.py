"""Hints: what a refusal names can be pasted into the next request."""

import re

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance import names
from nanoclaw_governance.draft import Draft, check_form, new_task
from nanoclaw_governance.explanation import explain
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.task import State
from nanoclaw_governance.transition import Move

ENUMS = {
    "TASK_STATE_": pb.TaskState,
    "TASK_TYPE_": pb.TaskType,
    "PRIORITY_": pb.Priority,
    "GATE_": pb.Gate,
    "SCOPE_": pb.Scope,
    "RISK_": pb.Risk,
    "PRODUCT_STATUS_": pb.ProductStatus,
}
ADMIN = Caller("operator:founder", Role.ADMIN)


def named(hint: str) -> list[str]:
    """The values of the contract that a hint names; fails on one that there is not."""
    found = re.findall(r"\b(?:TASK_STATE|TASK_TYPE|PRIORITY|GATE|SCOPE|RISK|PRODUCT_STATUS)_\w+", hint)
    for name in found:
        prefix = next(prefix for prefix in ENUMS if name.startswith(prefix))
        ENUMS[prefix].Value(name)
    return found


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        (names.STATES, pb.TaskState),
        (names.TYPES, pb.TaskType),
        (names.PRIORITIES, pb.Priority),
        (names.GATES, pb.Gate),
        (names.SCOPES, pb.Scope),
        (names.RISKS, pb.Risk),
        (names.PRODUCT_STATUSES, pb.ProductStatus),
    ],
)
def test_a_value_that_is_none_is_answered_with_those_that_are(table, enum) -> None:
    """By the names that grpcurl and JSON take, all of them but the unspecified one."""
    with pytest.raises(NanoclawError) as caught:
        table.required("field", 0)
    assert named(caught.value.next_step) == [name for name, value in enum.items() if value]


def test_a_task_without_a_type_or_with_a_gate_too_few_is_told_which_there_are() -> None:
    """Both violations, each with values that can be sent."""
    with pytest.raises(NanoclawError) as caught:
        check_form(Draft("T", "", human_gate=True))
    types, gates = (named(violation.next_step) for violation in caught.value.violations)
    assert types == [name for name, value in pb.TaskType.items() if value]
    assert gates == [name for name, value in pb.Gate.items() if value > pb.GATE_NONE]


@pytest.mark.parametrize("source", State)
@pytest.mark.parametrize("to", State)
def test_every_missing_edge_names_a_state_that_comes_next(source: State, to: State) -> None:
    """From any state to any other: the first step is one that there is, and is named as it is sent."""
    task = new_task("t-1", title="T", state=str(source), assigned_group="developer", version=3)
    found = explain(task, Move(str(to), reason="r"), ADMIN, Policy())
    for violation in found.violations:
        if violation.code != "NO_SUCH_EDGE":
            continue
        if source is State.DONE:
            assert violation.next_step == "DONE is final: create a follow-up task"
            continue
        following = [name.removeprefix("TASK_STATE_") for name in named(violation.next_step)]
        assert following
        assert all((str(source), state) in POSSIBLE for state in following)


POSSIBLE = {
    (str(source), str(to))
    for source in State
    for to in State
    if not [
        one
        for one in explain(
            new_task("t-1", state=str(source), assigned_group="developer"), Move(str(to), "r"), ADMIN, Policy()
        ).violations
        if one.code == "NO_SUCH_EDGE"
    ]
}


def test_an_open_gate_is_named_as_it_is_approved() -> None:
    """ApproveGate takes GATE_SECURITY."""
    task = new_task("t-1", state="APPROVAL", gate="SECURITY", assigned_group="developer")
    found = explain(task, Move("DONE"), ADMIN, Policy())
    assert [named(step) for step in found.next_steps] == [["GATE_SECURITY"]]
