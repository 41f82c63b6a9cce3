"""The rules of dispatch, exhaustively: every state, gate, round of rework, product and history, against a second
writing of what the design says."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_dispatcher.dispatch import (
    Dispatch,
    Move,
    Notify,
    Policy,
    Rule,
    Start,
    attempt_id,
    decide,
    waits,
)
from nanoclaw_dispatcher.lifecycle import (
    ATTEMPT_TRANSITIONS,
    LIVE,
    OPEN,
    TRANSITIONS,
    AttemptState,
    Code,
    DispatchState,
)
from nanoclaw_dispatcher.task import Task, TaskState

POLICY = Policy(frozenset({"developer", "writer", "security", "main"}), max_rework=3)
READY, DOING, REVIEW, APPROVAL = TaskState.READY, TaskState.DOING, TaskState.REVIEW, TaskState.APPROVAL
RESTING = [TaskState.INBOX, TaskState.TRIAGED, TaskState.DONE, TaskState.BLOCKED]
TASK = Task("t", 7, READY, TaskState.TRIAGED, 2, 0, "developer", "Security", False, "security", reason="as told")


def dispatch(rule: Rule, state: DispatchState, **other: Any) -> Dispatch:
    """One of TASK's, cut for its version."""
    group = "security" if rule is Rule.REVIEW else "developer"
    one = Dispatch("d", "t:earlier", group, rule, TASK.round, TASK.version, 1, state, reason="it broke")
    return replace(one, **other)


def every_task() -> Iterator[Task]:
    """Each combination of what the rules look at."""
    for state, previous, gate, human, rework, startable, assigned, approver in itertools.product(
        TaskState, (None, *TaskState), ("", "Security"), (False, True), range(6), (True, False),
        ("", "developer", "nobody"), ("", "security", "nobody"),
    ):  # fmt: skip
        yield replace(
            TASK, state=state, previous_state=previous, gate=gate, human_gate=human, rework_count=rework,
            startable=startable, assigned_group=assigned, approver_group=approver, product_id="p",
        )  # fmt: skip


def blocks(why: str) -> tuple[str, str]:
    """Moved to BLOCKED, with a reason that begins so."""
    return ("block", why)


def expected(task: Task) -> Any:
    """What the design says of a task that nothing was dispatched for yet."""
    if task.state is READY and task.assigned_group:
        if not task.startable:
            return ("notify", "PRODUCT_NOT_ACTIVE")
        if task.assigned_group == "nobody":
            return blocks("UNKNOWN_GROUP")
        return (1, "developer", "t:READY->DOING:v7", 3, DOING, "")
    if task.state is DOING and task.previous_state is not READY:
        if task.previous_state is REVIEW and task.rework_count > 3:
            return blocks("REWORK_LIMIT")
        if not task.startable:
            return ("notify", "PRODUCT_NOT_ACTIVE")
        if task.assigned_group != "developer":
            return blocks("UNKNOWN_GROUP")
        return (4, "developer", "t:DOING:v7", 2, None, "as told")
    if task.state is REVIEW and task.previous_state is APPROVAL:
        if task.rework_count >= 3:
            return blocks("REWORK_LIMIT")
        if not task.assigned_group:
            return ("notify", "UNASSIGNED")
        return ("move", DOING) if task.startable else ("notify", "PRODUCT_NOT_ACTIVE")
    if task.state in (REVIEW, APPROVAL) and task.gate:
        if task.human_gate:
            return ("notify", "HUMAN_GATE")
        if not task.approver_group:
            return ("notify", "NO_APPROVER")
        if task.approver_group == "nobody":
            return blocks("UNKNOWN_GROUP")
        if task.state is REVIEW:
            return (2, "security", "t:REVIEW->APPROVAL:v7", 2, APPROVAL, "")
        return (2, "security", "t:APPROVAL:v7", 2, None, "")
    return None


def told(step: Start | Move | Notify | None) -> Any:
    """A step in the words of `expected`."""
    if isinstance(step, Start):
        return (int(step.rule), step.group, step.key, step.round, step.to_state, step.reason)
    if isinstance(step, Notify):
        return ("notify", step.notice)
    if isinstance(step, Move) and step.to_state is TaskState.BLOCKED:
        return blocks(step.reason.partition(":")[0])
    return ("move", step.to_state) if isinstance(step, Move) else None


def test_a_task_gets_what_the_four_rules_say() -> None:
    """Every state × way there × gate × person's gate × rework × product × groups: some ten thousand tasks."""
    seen = set()
    for task in every_task():
        decision = decide(task, (), POLICY)
        assert told(decision.step) == expected(task), task
        assert (decision.step is None) == bool(decision.because or task.state in RESTING), task
        if isinstance(decision.step, Start):
            assert decision.step.from_state is task.state
        if isinstance(decision.step, Move):
            assert decision.step.key == f"t:{task.state}->{decision.step.to_state}:v7"
            assert decision.step.reason
        seen.add(expected(task))
    assert len(seen) == 12, "each of the answers is given to some task"


def test_rework_takes_the_reviewer_s_reason_along() -> None:
    """Or a word of ours, since governance wants one."""
    sent_back = replace(TASK, state=REVIEW, previous_state=APPROVAL)
    assert decide(sent_back, (), POLICY).step == Move("t:REVIEW->DOING:v7", DOING, "as told")
    assert decide(replace(sent_back, reason=""), (), POLICY).step == Move("t:REVIEW->DOING:v7", DOING, "rework")
    step = decide(replace(sent_back, rework_count=3), (), POLICY).step
    assert isinstance(step, Move)
    assert "as told" in step.reason


def test_a_notice_is_given_once_a_round_or_once_a_version() -> None:
    """A person's gate is told of once a round, whatever is edited meanwhile; a paused product once a version."""
    human = replace(TASK, state=REVIEW, previous_state=DOING, human_gate=True)
    assert told(decide(human, (), POLICY).step) == ("notify", "HUMAN_GATE")
    assert decide(human, (), POLICY).step == decide(replace(human, version=8), (), POLICY).step
    assert decide(human, (), POLICY).step != decide(replace(human, round=3), (), POLICY).step
    paused = replace(TASK, startable=False)
    assert decide(paused, (), POLICY).step != decide(replace(paused, version=8), (), POLICY).step


# with what was dispatched before


def outcome(task: Task, *dispatches: Dispatch) -> str:
    """In a word: starts, blocks, or nothing."""
    step = decide(task, dispatches, POLICY).step
    if isinstance(step, Move):
        assert (step.to_state, step.reason) == (TaskState.BLOCKED, "it broke")
        return "blocks"
    assert step is None or isinstance(step, Start)
    return "starts" if step else "nothing"


def codes(state: DispatchState) -> list[Code]:
    """Those that a dispatch in that state may have."""
    return {
        DispatchState.FAILED: [Code.EXHAUSTED],
        DispatchState.CANCELLED: [Code.CLAIM_REFUSED, Code.WITHDRAWN, Code.CANCELLED],
    }.get(state, [Code.NONE])


PAST = [(state, code) for state in DispatchState for code in codes(state)]
GIVEN_UP = [(DispatchState.FAILED, Code.EXHAUSTED), (DispatchState.CANCELLED, Code.CANCELLED)]


@pytest.mark.parametrize(("state", "code"), PAST)
@pytest.mark.parametrize("task_state", [READY, REVIEW])
def test_a_claim_is_made_once_for_a_version(task_state: TaskState, state: DispatchState, code: Code) -> None:
    """Given up means BLOCKED; anything else is known, and not begun again until the task changes."""
    task = replace(TASK, state=task_state, previous_state=DOING if task_state is REVIEW else TaskState.TRIAGED)
    rule = Rule.EXECUTE if task_state is READY else Rule.REVIEW
    step = decide(task, (), POLICY).step
    assert isinstance(step, Start)
    known = dispatch(rule, state, code=code, key=step.key, round=step.round)
    assert outcome(task, known) == ("blocks" if (state, code) in GIVEN_UP else "nothing")
    assert outcome(replace(task, version=8), known) == ("nothing" if state in OPEN else "starts")


@pytest.mark.parametrize(("state", "code"), PAST)
@pytest.mark.parametrize("version", [6, 7])
@pytest.mark.parametrize("task_state", [DOING, APPROVAL])
def test_a_stay_is_served_again_unless_it_was_given_up(
    task_state: TaskState, version: int, state: DispatchState, code: Code
) -> None:
    """Who ended without the task moving on is followed by another; a refused claim by nothing until it changes."""
    task = replace(TASK, state=task_state, previous_state=TaskState.BLOCKED if task_state is DOING else REVIEW)
    rule = Rule.RESUME if task_state is DOING else Rule.REVIEW
    past = dispatch(rule, state, code=code, task_version=version)
    if (state, code) in GIVEN_UP:
        wanted = "blocks"
    elif state in OPEN or (code is Code.CLAIM_REFUSED and version == 7):
        wanted = "nothing"
    else:
        wanted = "starts"
    assert outcome(task, past) == wanted
    assert outcome(task, replace(past, round=1)) == ("nothing" if state in OPEN else "starts"), "an earlier round's"
    other = replace(past, group="writer")
    assert outcome(task, other) == "starts", "another group's: the task was given to this one"
    assert outcome(task, past, replace(past, id="e", state=DispatchState.STARTED, code=Code.NONE)) == "nothing"


def test_the_last_dispatch_of_a_stay_counts() -> None:
    """One that failed before somebody unblocked the task does not block it again."""
    task = replace(TASK, state=DOING, previous_state=TaskState.BLOCKED)
    failed, done = (dispatch(Rule.RESUME, state) for state in (DispatchState.FAILED, DispatchState.DONE))
    assert (outcome(task, failed, done), outcome(task, done, failed)) == ("starts", "blocks")


def test_who_moves_a_task_by_hand_keeps_it() -> None:
    """READY → DOING without a dispatch of ours, or past a claim that was refused: whoever moved it works on it."""
    task = replace(TASK, state=DOING, previous_state=READY)
    refused = dispatch(Rule.EXECUTE, DispatchState.CANCELLED, code=Code.CLAIM_REFUSED, task_version=6)
    assert outcome(task) == "nothing"
    assert outcome(task, refused) == "nothing"
    assert outcome(task, dispatch(Rule.EXECUTE, DispatchState.DONE, group="writer")) == "starts", "it was reassigned"
    assert outcome(task, refused, dispatch(Rule.EXECUTE, DispatchState.CANCELLED, code=Code.WITHDRAWN)) == "starts"


def test_a_dispatch_of_the_same_key_is_never_made_again() -> None:
    """Even where it is of a stay that it does not serve."""
    task = replace(TASK, state=DOING, previous_state=TaskState.BLOCKED)
    withdrawn = replace(
        dispatch(Rule.RESUME, DispatchState.CANCELLED, code=Code.WITHDRAWN), key="t:DOING:v7", group="writer"
    )
    assert outcome(task, withdrawn) == "nothing"
    assert outcome(task, replace(withdrawn, key="t:DOING:v6")) == "starts"


def test_the_limit_of_rework_is_the_operator_s() -> None:
    """max_rework rounds are granted, the next one is not; one moved on by hand past the limit is blocked, too."""
    for limit, count in itertools.product(range(5), range(6)):
        policy = replace(POLICY, max_rework=limit)
        task = replace(TASK, state=REVIEW, previous_state=APPROVAL, rework_count=count)
        step = decide(task, (), policy).step
        assert isinstance(step, Move)
        assert (step.to_state is DOING) == (count < limit)
        entered = replace(TASK, state=DOING, previous_state=REVIEW, rework_count=count)
        assert isinstance(decide(entered, (), policy).step, Start) == (count <= limit)
        unblocked = replace(entered, previous_state=TaskState.BLOCKED)
        assert isinstance(decide(unblocked, (), policy).step, Start), "who unblocks it has seen the reason"


# what a running one is still good for


def test_a_dispatch_is_waited_for_where_its_claim_found_the_task_or_put_it() -> None:
    """Every state × rule × version × round × group × person's gate."""
    for state, rule, version, round_, group, human in itertools.product(
        TaskState, (Rule.EXECUTE, Rule.REVIEW, Rule.RESUME), (6, 7), (1, 2), ("developer", "security"), (False, True)
    ):
        task = replace(TASK, state=state, human_gate=human)
        before, after, whose = (REVIEW, APPROVAL, "security") if rule is Rule.REVIEW else (READY, DOING, "developer")
        wanted = (state, version) == (before, 7) or (state, round_) == (after, 2)
        wanted = wanted and group == whose and not (human and rule is Rule.REVIEW)
        one = dispatch(rule, DispatchState.STARTED, task_version=version, round=round_, group=group)
        assert waits(task, one) == wanted, (task, one)
        assert decide(task, [one], POLICY).withdraw == (() if wanted else ("d",))


tasks = st.builds(
    Task,
    id=st.just("t"),
    version=st.integers(1, 6),
    state=st.sampled_from(TaskState),
    previous_state=st.sampled_from((None, *TaskState)),
    round=st.integers(0, 3),
    rework_count=st.integers(0, 4),
    assigned_group=st.sampled_from(("", "developer", "writer", "nobody")),
    gate=st.sampled_from(("", "Security")),
    human_gate=st.booleans(),
    approver_group=st.sampled_from(("", "security", "main")),
    startable=st.booleans(),
)
_versions = st.integers(1, 6)
_keys = st.builds(
    "t:{}:v{}".format, st.sampled_from(("READY->DOING", "DOING", "REVIEW->APPROVAL", "APPROVAL")), _versions
)
histories = st.lists(
    st.builds(
        lambda number, past, **fields: Dispatch(id=f"d{number}", state=past[0], code=past[1], **fields),
        st.integers(0, 99),
        st.sampled_from(PAST),
        key=_keys,
        group=st.sampled_from(("developer", "writer", "security", "main")),
        rule=st.sampled_from((Rule.EXECUTE, Rule.REVIEW, Rule.RESUME)),
        round=st.integers(0, 3),
        task_version=_versions,
        seen_version=_versions,
        reason=st.just("it broke"),
    ),
    max_size=4,
    unique_by=lambda each: each.id,
)


@given(tasks, histories)
def test_no_history_leads_to_a_second_agent(task: Task, history: list[Dispatch]) -> None:
    """No key twice, no group twice at once, nothing on an old reading, withdrawn is what nobody waits for."""
    decision = decide(task, history, POLICY)
    if any(each.seen_version > task.version for each in history):
        assert (decision.step, decision.withdraw) == (None, ())
        return
    assert decision.withdraw == tuple(each.id for each in history if each.state in OPEN and not waits(task, each))
    step = decision.step
    if isinstance(step, Start):
        assert step.key not in {each.key for each in history}
        assert step.group not in {each.group for each in history if each.state in OPEN}
        assert step.group in POLICY.groups
        assert step.key.endswith(f":v{task.version}")
    if isinstance(step, Move):
        assert step.reason
    assert decision == decide(task, list(history), POLICY)


@given(tasks, histories)
def test_what_was_started_is_waited_for_until_the_task_moves(task: Task, history: list[Dispatch]) -> None:
    """A start and its withdrawal at once would go round for ever; nor is it started again."""
    step = decide(task, history, POLICY).step
    if not isinstance(step, Start):
        return
    begun = Dispatch(
        "new", step.key, step.group, step.rule, step.round, task.version, task.version, DispatchState.ENQUEUED
    )
    assert waits(task, begun)
    again = decide(task, [*history, begun], POLICY)
    assert "new" not in again.withdraw
    assert not isinstance(again.step, Start)
    if step.to_state is not None:
        claimed = replace(
            task, state=step.to_state, previous_state=task.state, version=task.version + 1, round=step.round
        )
        assert waits(claimed, begun)


# the lifecycles


def test_a_dispatch_goes_these_ways_and_no_other() -> None:
    """A second writing of the table."""
    E, S, D, F, C = DispatchState
    pairs = {(E, S), (E, D), (E, F), (E, C), (S, E), (S, D), (S, F), (S, C), (F, E), (C, E)}
    assert {(a, b) for a, next_ones in TRANSITIONS.items() for b in next_ones} == pairs
    assert set(TRANSITIONS) == set(DispatchState)
    assert {state for state in DispatchState if state in OPEN} == {E, S}


def test_an_attempt_goes_these_ways_and_no_other() -> None:
    """It begins once and ends once."""
    E, S, D, F, L = AttemptState
    pairs = {(E, S), *((state, end) for state in (E, S) for end in (D, F, L))}
    assert {(a, b) for a, next_ones in ATTEMPT_TRANSITIONS.items() for b in next_ones} == pairs
    assert set(ATTEMPT_TRANSITIONS) == set(AttemptState)
    assert set(LIVE) == {E, S}


def test_an_attempt_s_name_says_which_dispatch_and_which_number() -> None:
    """20 hex of the key's SHA-256 and the number: fit for a container's name, whatever the key holds."""
    assert attempt_id("t:READY->DOING:v3", 1) == "nc-c1183732a2126a5635a4-1"
    assert attempt_id("t:READY->DOING:v3", 12) == "nc-c1183732a2126a5635a4-12"
    assert re.fullmatch(r"nc-[0-9a-f]{20}-1", attempt_id("ä/..\n" * 1000, 1))
