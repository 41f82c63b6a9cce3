"""What follows from the end of an attempt: every outcome, exit code, wish and count of failures."""

import itertools

import pytest

from nanoclaw_core.clock import from_text
from nanoclaw_dispatcher.ending import End, Outcome, RetryPolicy, Settlement, describe, postponed, settle
from nanoclaw_dispatcher.lifecycle import AttemptState, Code, DispatchState

NOW = "2026-11-21T12:00:00.000000Z"
RETRY = RetryPolicy(attempts=3, base_seconds=2.0, most_seconds=5.0)
DONE, FAILED, LOST = AttemptState.DONE, AttemptState.FAILED, AttemptState.LOST


def settled(end: End, *, moved: bool = False, failures: int = 0, code: Code = Code.NONE) -> Settlement:
    reason = "somebody said so" if code else ""
    return settle(end, moved=moved, failures=failures, code=code, reason=reason, retry=RETRY, now=NOW)


def expected(end: End, moved: bool, failures: int, code: Code) -> tuple[object, ...]:
    """A second writing: states of attempt and dispatch, failures, code, outcome."""
    gone = LOST if end.outcome is Outcome.LOST else None
    if code:
        return (gone or FAILED, DispatchState.CANCELLED, failures, code, Outcome.CANCELLED)
    if moved and end.outcome is Outcome.START_FAILED:
        return (FAILED, DispatchState.CANCELLED, failures, Code.WITHDRAWN, end.outcome)
    if moved:
        return (gone or DONE, DispatchState.DONE, failures, Code.NONE, end.outcome)
    clean = end.outcome is Outcome.EXITED and end.exit_code == 0
    outcome = Outcome.NO_PROGRESS if clean else end.outcome
    if failures + 1 >= 3:
        return (gone or FAILED, DispatchState.FAILED, failures + 1, Code.EXHAUSTED, outcome)
    return (gone or FAILED, DispatchState.ENQUEUED, failures + 1, Code.NONE, outcome)


def test_every_end_is_settled_as_the_design_says() -> None:
    """Each outcome × exit code × moved or not × failures so far × why we stopped it."""
    codes = (Code.NONE, Code.CANCELLED, Code.WITHDRAWN, Code.CLAIM_REFUSED)
    seen = set()
    for outcome, exit_code, moved, failures, code in itertools.product(
        Outcome, (None, 0, 1, 137), (False, True), range(4), codes
    ):
        end = End(outcome, exit_code, "last words")
        told = settled(end, moved=moved, failures=failures, code=code)
        assert (told.attempt, told.dispatch, told.failures, told.code, told.outcome) == expected(
            end, moved, failures, code
        ), (end, moved, failures, code)
        assert (told.not_before != "") == (told.dispatch is DispatchState.ENQUEUED)
        assert (told.reason == "") == (told.dispatch is DispatchState.DONE)
        seen.add(told.dispatch)
    assert seen == set(DispatchState) - {DispatchState.STARTED}


def test_a_moved_task_means_success_however_the_process_ended() -> None:
    """Who was killed after handing in has handed in."""
    for outcome in set(Outcome) - {Outcome.START_FAILED}:
        assert settled(End(outcome, 137), moved=True, failures=2).dispatch is DispatchState.DONE


def test_an_agent_that_ends_cleanly_without_moving_its_task_has_failed() -> None:
    """NO_PROGRESS is counted like any failure, and said in words."""
    told = settled(End(Outcome.EXITED, 0))
    assert (told.outcome, told.failures) == (Outcome.NO_PROGRESS, 1)
    assert told.reason == "the agent ended without moving its task"


def test_the_last_failure_gives_up_with_the_count_and_the_words() -> None:
    """This is what the task is blocked with."""
    told = settled(End(Outcome.EXITED, 7, "disk full"), failures=2)
    assert told.reason == "EXITED: 3 attempts failed; the last: the agent exited with 7: disk full"


def test_one_attempt_means_no_retry() -> None:
    """The limit counts attempts, not repetitions."""
    once = RetryPolicy(attempts=1)
    told = settle(End(Outcome.LOST), moved=False, failures=0, code=Code.NONE, reason="", retry=once, now=NOW)
    assert (told.dispatch, told.code, told.attempt) == (DispatchState.FAILED, Code.EXHAUSTED, LOST)


def test_pauses_double_up_to_the_most() -> None:
    """However often it failed; a pause is told as the time at which it ends."""
    assert [RETRY.pause(failures) for failures in (1, 2, 3, 4, 5, 10_000)] == [2.0, 4.0, 5.0, 5.0, 5.0, 5.0]
    assert RetryPolicy().pause(3) == 4.0
    assert RetryPolicy().pause(10_000) == 300.0
    for failures, seconds in ((0, 2), (1, 4)):
        told = settled(End(Outcome.EXITED, 1), failures=failures)
        assert (from_text(told.not_before) - from_text(NOW)).total_seconds() == seconds


@pytest.mark.parametrize("outcome", Outcome)
def test_every_end_has_words(outcome: Outcome) -> None:
    """And its last words after them, if it had any."""
    words = describe(outcome, End(outcome, 1))
    assert words[0].islower()
    assert not words.endswith((".", ":"))
    assert describe(outcome, End(outcome, 1, "oops")) == f"{words}: oops"


def test_what_a_resting_product_holds_up_has_not_failed() -> None:
    """It is looked at again in a second, failures as before."""
    told = postponed("product p rests", 2, NOW)
    assert (told.dispatch, told.failures, told.attempt) == (DispatchState.ENQUEUED, 2, FAILED)
    assert told.not_before == "2026-11-21T12:00:01.000000Z"
    assert told.reason == "product p rests"
