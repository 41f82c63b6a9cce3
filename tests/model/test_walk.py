"""The model check: task × gate × dispatch claim, two dispatchers, crashes between all steps, on the real decisions.

A guard that is taken out must be found missing; where another stands behind it, both are, and the other alone holds.
"""

from typing import Any

import kernel_model
import pytest
from walk import Walk, walk

from nanoclaw_dispatcher import dispatch as rules
from nanoclaw_dispatcher.ending import RetryPolicy
from nanoclaw_governance import approval, requirement, transition

AGAIN, KEYS, LIVE = "decides_again_in_the_transaction", "keys_are_unique", "one_live_attempt"


def walked(
    rework: int = 0,
    age: int = 0,
    dispatchers: int = 2,
    *,
    without: tuple[str, ...] = (),
    group: str = "developer",
    **limits: int,
) -> Walk:
    """Walks all that can happen; `without` takes guards of engine, database and runtime out."""
    model = kernel_model.Model(rework, age, dispatchers)
    for guard in without:
        assert getattr(model, guard) is True
        setattr(model, guard, False)
    start = kernel_model.begin(group, **limits)
    return walk(start, model.steps, model.check, model.is_end, kernel_model.key)


@pytest.mark.parametrize(
    ("setting", "least"),
    [
        pytest.param({"age": 1}, 10_000, id="two dispatchers that decide on readings grown old"),
        pytest.param({"crashes": 1}, 10_000, id="a dispatcher crashes between any two steps"),
        pytest.param(
            {"deaths": 1, "late": 1, "dispatchers": 1},
            10_000,
            id="an agent dies, and its file comes late",
            marks=[pytest.mark.crash, pytest.mark.timeout(120)],
        ),
        pytest.param({"without": (AGAIN,)}, 3_000, id="the database alone keeps two dispatchers apart"),
    ],
)
def test_nothing_goes_wrong_in_any_state_that_can_be_reached(setting: dict[str, Any], least: int) -> None:
    """One live attempt a group, no key twice, no approval by its executor, and from everywhere a way to an end."""
    found = walked(**setting)
    assert found.wrong == "", " → ".join(found.way)
    assert found.states > least


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param({"deaths": 1}, id="an agent dies under two dispatchers, with and without a record"),
        pytest.param({"rework": 1}, id="a round of rework by two dispatchers"),
        pytest.param({"operator": 1, "dispatchers": 1}, id="a person moves or reassigns the task at any moment"),
        pytest.param({"deaths": 2, "dispatchers": 1}, id="every agent dies"),
        pytest.param({"crashes": 1, "dispatchers": 1, "without": ("adopts",)}, id="the runtime alone starts once"),
    ],
)
def test_nothing_goes_wrong_in_the_larger_walks(setting: dict[str, Any]) -> None:
    """The same, some hundred thousand states in all: an approval never outlives rework, nothing is tried for ever."""
    found = walked(**setting)
    assert found.wrong == "", " → ".join(found.way)


# a guard is gone


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        pytest.param(
            {"without": (AGAIN, KEYS)},
            "a dispatch key was used twice",
            id="the unique dispatch key",
        ),
        pytest.param(
            {"without": (AGAIN, LIVE), "operator": 2},
            "two live attempts for one task and group",
            id="the index of live attempts",
        ),
        pytest.param(
            {"without": (AGAIN, KEYS, LIVE)},
            "two live attempts for one task and group",
            id="the second dispatcher's claim",
        ),
        pytest.param(
            {"without": ("asks_the_runtime",), "crashes": 1, "dispatchers": 1},
            "two agents of one group run for one task",
            id="the look at the old attempt before a new one",
        ),
        pytest.param(
            {"without": ("adopts", "starts_only_what_was_created"), "crashes": 1, "dispatchers": 1},
            "an attempt ran twice",
            id="adoption instead of a restart",
        ),
    ],
)
def test_the_walk_finds_a_guard_of_the_engine_that_is_gone(setting: dict[str, Any], wrong: str) -> None:
    """Each is needed: without it the walk meets what it is there against."""
    assert walked(**setting).wrong == wrong


def test_the_walk_finds_a_rule_that_forgets_open_dispatches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open dispatch is what keeps the next one from being made; behind the rule stands the database."""
    real = rules.decide

    def forgetful(task: Any, dispatches: Any, policy: Any) -> Any:
        return real(task, [one for one in dispatches if not one.is_open], policy)

    monkeypatch.setattr(rules, "decide", forgetful)
    assert walked(without=(KEYS, LIVE)).wrong == "two live attempts for one task and group"


def test_the_walk_finds_a_transition_that_does_not_check_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided on an old reading must not move the task."""
    monkeypatch.setattr(transition, "check_version", lambda *_: None)
    assert walked(dispatchers=1, operator=1).wrong == "a stale decision moved the task"


def test_the_walk_finds_attempts_that_are_not_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a replaced attempt left behind is decided after its successor was bound."""
    for module in (transition, approval):
        monkeypatch.setattr(module, "fenced", lambda *_: iter(()))
    assert walked(dispatchers=1, deaths=1, late=1).wrong == "a fenced attempt changed something"


def test_the_walk_finds_retries_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that always dies is not started for ever."""
    real = kernel_model.settle
    for_ever = RetryPolicy(attempts=1_000_000)
    monkeypatch.setattr(kernel_model, "settle", lambda end, **given: real(end, **given | {"retry": for_ever}))
    assert walked(dispatchers=1, deaths=2).wrong == "tried more often than the limit allows"


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
