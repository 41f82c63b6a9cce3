"""The model check: task × gate × dispatch claim, two dispatchers, crashes between all steps, on the real decisions."""

from typing import Any

import kernel_model
import pytest
from walk import Walk, walk

from nanoclaw_dispatcher import dispatch as rules
from nanoclaw_governance import approval, requirement, transition


def walked(
    rework: int = 0, age: int = 0, dispatchers: int = 2, *, without: str = "", group: str = "developer", **limits: int
) -> Walk:
    """Walks all that can happen; `without` takes one guard of the engine out."""
    model = kernel_model.Model(rework, age, dispatchers)
    if without:
        assert getattr(model, without) is True
        setattr(model, without, False)
    start = kernel_model.begin(group, **limits)
    return walk(start, model.steps, model.check, model.is_end, kernel_model.key)


@pytest.mark.parametrize(
    ("age", "limits"),
    [
        pytest.param(1, {}, id="two dispatchers that decide on readings grown old"),
        pytest.param(0, {"crashes": 1}, id="a dispatcher crashes between any two steps"),
        pytest.param(0, {"deaths": 1}, id="an agent dies, with and without a record"),
        pytest.param(0, {"late": 1}, id="a file of a fenced attempt comes late"),
    ],
)
def test_nothing_goes_wrong_in_any_state_that_can_be_reached(age: int, limits: dict[str, int]) -> None:
    """One live attempt a group, no key twice, no approval by its executor, and from everywhere a way to an end."""
    found = walked(age=age, **limits)
    assert found.wrong == "", " → ".join(found.way)
    assert found.states > 1000


@pytest.mark.crash
@pytest.mark.timeout(300)
def test_rework_by_two_dispatchers_goes_wrong_nowhere() -> None:
    """The same with a round of rework: an approval never outlives it (some hundred thousand states)."""
    found = walked(rework=1)
    assert found.wrong == "", " → ".join(found.way)


def test_the_walk_finds_a_claim_that_is_not_decided_again_in_its_transaction() -> None:
    """Without it two dispatchers that read at once both start."""
    assert walked(without="decides_again_in_the_transaction", crashes=1).wrong == (
        "two live attempts for one task and group"
    )


def test_the_walk_finds_a_rule_that_forgets_open_dispatches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open dispatch is what keeps the next one from being made."""
    real = rules.decide

    def forgetful(task: Any, dispatches: Any, policy: Any) -> Any:
        return real(task, [one for one in dispatches if not one.is_open], policy)

    monkeypatch.setattr(rules, "decide", forgetful)
    assert walked().wrong == "two live attempts for one task and group"


def test_the_walk_finds_an_approval_that_is_not_voided_by_rework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entering DOING voids what was approved before."""
    real = transition.decide
    monkeypatch.setattr(transition, "decide", lambda *args: real(*args)._replace(voids=""))
    assert walked(rework=1, dispatchers=1).wrong == "an approval outlived rework"


@pytest.fixture
def self_approval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Governance without the separation of powers: who worked is not asked."""
    monkeypatch.setattr(approval, "worked_on", lambda *_: False)
    monkeypatch.setattr(requirement, "_is_approved", lambda task: task.approved_by != "")


@pytest.mark.usefixtures("self_approval")
def test_the_walk_finds_that_who_worked_may_approve() -> None:
    """Main works behind a Security gate, and would approve itself."""
    assert walked(rework=0, dispatchers=1, group="main", late=1).wrong == "approved by one that executed it"
