"""The reference executor does what its task says, once, and says what it did."""

from pathlib import Path
from typing import Any

import pytest

from nanoclaw_agent.client import Client
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.executor import VOTE_PATIENCE, VOTE_PAUSE, Executor, GaveUp
from nanoclaw_agent.prompt import EXECUTOR, Assignment


class Bench:
    """A group's folder and a way to start the executor in it."""

    def __init__(self, ipc: Path, folder: Path) -> None:
        self.ipc = ipc
        self.folder = folder
        self.slept: list[float] = []

    def run(self, description: str, *, reason: str = "", attempt: int = 1) -> str:
        environment = Environment(str(self.ipc), str(self.folder), "developer", "t1", f"nc-0123-{attempt}")
        task = {"id": "t1", "title": "Fix login", "description": description, "state": "DOING"}
        return Executor(Client(environment), Assignment(task, EXECUTOR, reason), self.slept.append).run()

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def bench(ipc: Path, tmp_path: Path) -> Bench:
    return Bench(ipc, tmp_path / "group")


def moves(host: Any) -> list[tuple[str, str]]:
    return [(request["toState"], request["reason"]) for request in host.of("gov_transition")]


def test_without_a_plan_it_notes_its_work_and_hands_in(bench: Bench, host: Any) -> None:
    """The default: a work note in the group's folder, then REVIEW with a summary."""
    assert bench.run("Please.") == "noted it in work/t1.md"
    assert "Fix login (t1), nc-0123-1" in bench.read("work/t1.md")
    assert moves(host) == [("REVIEW", "noted it in work/t1.md")]


def test_it_follows_the_steps_in_order(bench: Bench, host: Any, ipc: Path) -> None:
    """Files, calls with the task's id, kept data, messages, waits."""
    host.answer = lambda request: {"status": "executed", "data": {"total": 3}, "summary": "sum 3"}
    bench.run(
        'do: write a/notes.md: one\\ntwo\ndo: call json transform {"x": 1} -> out.json\ndo: message begun\ndo: wait 0.5'
    )
    assert bench.read("a/notes.md") == "one\ntwo\n"
    assert bench.read("out.json") == '{\n  "total": 3\n}\n'
    assert len(list((ipc / "messages").iterdir())) == 1
    assert bench.slept == [0.5]
    (call,) = host.of("ext_call")
    assert (call["provider"], call["action"], call["params"], call["task_id"]) == ("json", "transform", {"x": 1}, "t1")
    assert moves(host)[0][1].startswith("wrote a/notes.md; called json.transform: sum 3; left a message; noted it")


def test_a_summary_of_its_own_is_handed_in(bench: Bench, host: Any) -> None:
    """`summary` replaces the list."""
    bench.run("do: summary lockouts lift after an hour")
    assert moves(host) == [("REVIEW", "lockouts lift after an hour")]


def test_after_rework_the_reason_is_addressed_in_note_and_summary(bench: Bench, host: Any) -> None:
    """The reviewer finds the words that it sent the task back with."""
    bench.run("Please.")
    bench.run("Please.", reason="say how lockouts are lifted")
    assert "Started again because: say how lockouts are lifted" in bench.read("work/t1.md")
    assert moves(host)[1][1].startswith("addressed: say how lockouts are lifted; ")


def test_every_start_repeats_a_call_under_the_same_key(bench: Bench, host: Any) -> None:
    """A retried or reworked attempt repeats no effect: the broker answers the same key from its ledger."""
    for attempt in (1, 2):
        bench.run('do: call http post {"n": 1}\ndo: call http post {"n": 2}', attempt=attempt)
    keys = [request["idempotency_key"] for request in host.of("ext_call")]
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]


def test_a_denied_call_blocks_the_task_with_what_would_make_it_pass(bench: Bench, host: Any) -> None:
    """A missing grant is for a person."""
    host.answer = lambda request: (
        {"status": "denied", "code": "NO_CAPABILITY", "error": "no grant", "next_steps": ["grant http L1"]}
        if request["type"] == "ext_call"
        else {"status": "executed"}
    )
    bench.run("do: call http get {}")
    assert moves(host) == [
        ("BLOCKED", "http.get was denied: NO_CAPABILITY: no grant; next step: grant http L1"),
    ]


@pytest.mark.parametrize(("votes_after", "moved"), [(3, "REVIEW"), (1000, "BLOCKED")])
def test_it_waits_for_votes_where_it_is(bench: Bench, host: Any, votes_after: int, moved: str) -> None:
    """Moving the task would void the call; it asks again under the same key, and a person only when nobody votes."""
    asked = 0

    def answer(request: Any) -> dict[str, Any]:
        nonlocal asked
        if request["type"] != "ext_call":
            return {"status": "executed"}
        asked += 1
        if asked <= votes_after:
            return {"status": "denied", "code": "APPROVAL_PENDING", "facts": {"call_id": "c1"}}
        return {"status": "executed", "summary": "201"}

    host.answer = answer
    bench.run('do: call http post {"n": 1}')
    assert [state for state, _ in moves(host)] == [moved]
    assert len({request["idempotency_key"] for request in host.of("ext_call")}) == 1
    assert bench.slept == [VOTE_PAUSE] * min(votes_after, round(VOTE_PATIENCE / VOTE_PAUSE))


def test_a_refusal_that_may_pass_is_left_to_the_next_attempt(bench: Bench, host: Any) -> None:
    """Busy is no reason to bother a person: exit 1, the dispatcher backs off."""
    host.answer = lambda request: {"status": "denied", "code": "RATE_LIMITED", "error": "30 a minute"}
    with pytest.raises(GaveUp, match="RATE_LIMITED"):
        bench.run("do: call http get {}")
    assert moves(host) == []


@pytest.mark.parametrize(
    ("status", "code", "same_key"),
    [
        ("failed", "HTTP_ERROR", False),
        ("timeout", "NO_REPLY", False),
        ("timeout", "EFFECT_UNKNOWN", True),
        ("denied", "APPROVAL_VOID", False),
    ],
)
def test_after_unblocking_a_failed_call_is_tried_anew_and_an_unknown_one_is_not(
    bench: Bench, host: Any, status: str, code: str, same_key: bool
) -> None:
    """The recorded answer would stand under the same key for ever; of an unknown effect nothing may be repeated."""
    host.answer = lambda request: (
        {"status": status, "code": code} if request["type"] == "ext_call" else {"status": "executed"}
    )
    bench.run("do: call http get {}")
    bench.run("do: call http get {}", reason="try again")
    first, second = (request["idempotency_key"] for request in host.of("ext_call"))
    assert (first == second) is same_key
    assert [state for state, _ in moves(host)] == ["BLOCKED", "BLOCKED"]


def test_a_call_that_may_be_refused_does_not_stop_it(bench: Bench, host: Any) -> None:
    """`try call` notes the no."""
    host.answer = lambda request: (
        {"status": "denied", "code": "NO_CAPABILITY"} if request["type"] == "ext_call" else {"status": "executed"}
    )
    bench.run("do: try call http get {}")
    assert moves(host)[0][0] == "REVIEW"
    assert "http.get was denied: NO_CAPABILITY" in moves(host)[0][1]


def test_it_blocks_once_and_goes_on_when_it_is_started_again(bench: Bench, host: Any) -> None:
    """It remembers in the group's folder that it asked."""
    assert bench.run("do: block once: which ledger?") == "blocked: which ledger?"
    bench.run("do: block once: which ledger?", reason="the one of 2026")
    assert [state for state, _ in moves(host)] == ["BLOCKED", "REVIEW"]


def test_a_block_that_was_refused_is_not_remembered(bench: Bench, host: Any) -> None:
    """Otherwise the next attempt would pass over the question."""
    host.answer = lambda request: {"status": "failed", "code": "UNAVAILABLE"}
    with pytest.raises(GaveUp, match="could not block"):
        bench.run("do: block once: which ledger?")
    host.answer = lambda request: {"status": "executed"}
    assert bench.run("do: block once: which ledger?", attempt=2) == "blocked: which ledger?"


def test_it_fails_in_as_many_attempts_as_it_is_told(bench: Bench, host: Any) -> None:
    """For those who want to see retries."""
    for attempt in (1, 2):
        with pytest.raises(GaveUp, match="no luck"):
            bench.run("do: fail 2 times: no luck", attempt=attempt)
    bench.run("do: fail 2 times: no luck", attempt=3)
    assert [state for state, _ in moves(host)] == ["REVIEW"]


def test_a_plan_that_it_cannot_follow_blocks_the_task(bench: Bench, host: Any) -> None:
    """The line is in the reason."""
    bench.run("do: dance")
    assert moves(host) == [("BLOCKED", "can't follow the step 'dance'")]


def test_a_refused_hand_in_is_a_failure_with_its_reason(bench: Bench, host: Any) -> None:
    """A fenced attempt ends, and says why."""
    host.answer = lambda request: {"status": "denied", "code": "STALE_ATTEMPT", "error": "attempt 2 is bound"}
    with pytest.raises(GaveUp, match="could not hand the task in: STALE_ATTEMPT: attempt 2 is bound"):
        bench.run("Please.")
