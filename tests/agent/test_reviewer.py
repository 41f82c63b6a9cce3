"""The reference reviewer approves what passes its checklist, and sends back or blocks the rest with every reason."""

from pathlib import Path
from typing import Any

import pytest

from nanoclaw_agent.client import Client
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.executor import GaveUp
from nanoclaw_agent.prompt import REVIEWER, Assignment
from nanoclaw_agent.reviewer import Reviewer

SNAKE: dict[str, Any] = {"task": {"rework_count": 0}, "execution_summary": "wrote the lockout policy"}
CAMEL: dict[str, Any] = {"task": {"reworkCount": 0}, "executionSummary": "wrote the lockout policy"}


def review(ipc: Path, context: dict[str, Any], description: str = "") -> str:
    task = {"id": "t1", "title": "Fix login", "description": description, "state": "APPROVAL"}
    client = Client(Environment(str(ipc), group="security"))
    return Reviewer(client, Assignment(task, REVIEWER, "", context, "Security")).run()


def seen(host: Any) -> list[tuple[str, str]]:
    return [(r["type"], r.get("toState") or r.get("gate_type")) for r in host.requests]


@pytest.mark.parametrize("context", [SNAKE, CAMEL])
def test_work_that_passes_is_approved_and_finished(ipc: Path, host: Any, context: dict[str, Any]) -> None:
    """In this order, and with either spelling of the context pack's members."""
    review(ipc, context)
    assert seen(host) == [("gov_approve", "Security"), ("gov_transition", "DONE")]


def test_every_shortcoming_is_named_at_once(ipc: Path, host: Any) -> None:
    """One round of rework, not four."""
    context = {"task": {"checklist": [{"text": "tests", "done": False}, {"text": "docs", "done": True}]}}
    review(ipc, context, "review: require evidence\nreview: require mention lockout\nreview: send back once: be clear")
    assert seen(host) == [("gov_transition", "REVIEW")]
    assert host.requests[0]["reason"] == (
        "there is no summary of the work; evidence is required, and there is none; "
        "the summary does not mention lockout; not done: tests; be clear"
    )


@pytest.mark.parametrize(
    "history",
    [
        {"task": {"rework_count": 1}},
        {"activities": [{"from_state": "TASK_STATE_APPROVAL", "to_state": "TASK_STATE_REVIEW"}]},
        {"activities": [{"fromState": "APPROVAL", "toState": "REVIEW"}]},
    ],
)
def test_what_was_sent_back_once_passes_the_second_time(ipc: Path, host: Any, history: dict[str, Any]) -> None:
    """By the task's own count, or by its history."""
    review(ipc, SNAKE | history, "review: send back once: be clear")
    assert seen(host)[-1] == ("gov_transition", "DONE")


def test_evidence_satisfies_who_asks_for_it(ipc: Path, host: Any) -> None:
    """Whether the task or its plan did."""
    context = SNAKE | {"task": {"evidenceRequired": True}, "evidence": [{"link": "https://example.test/run/1"}]}
    review(ipc, context, "review: require evidence")
    assert seen(host)[-1] == ("gov_transition", "DONE")


def test_an_unknown_effect_and_a_reason_to_block_go_to_a_person(ipc: Path, host: Any) -> None:
    """No approval over a call of which nobody knows whether it happened."""
    calls = [{"provider": "github", "action": "create_issue", "callId": "c1", "state": "CALL_STATE_UNKNOWN"}]
    review(ipc, SNAKE | {"externalCalls": calls}, "review: block ask legal")
    assert seen(host) == [("gov_transition", "BLOCKED")]
    assert host.requests[0]["reason"] == ("ask legal; nobody knows whether github.create_issue (c1) took effect")


def test_an_approval_that_the_kernel_refuses_is_handed_to_a_person(ipc: Path, host: Any) -> None:
    """The rules stand above the reviewer."""
    host.answer = lambda r: (
        {"status": "denied", "code": "SELF_APPROVAL", "error": "security executed it"}
        if r["type"] == "gov_approve"
        else {"status": "executed"}
    )
    review(ipc, SNAKE)
    assert seen(host) == [("gov_approve", "Security"), ("gov_transition", "BLOCKED")]
    assert "SELF_APPROVAL" in host.requests[1]["reason"]


@pytest.mark.parametrize("code", ["STALE_ATTEMPT", "RATE_LIMITED", "NO_ANSWER"])
def test_a_refusal_of_the_moment_is_left_to_the_next_attempt(ipc: Path, host: Any, code: str) -> None:
    """Nothing is blocked for it."""
    host.answer = lambda r: {"status": "denied", "code": code}
    with pytest.raises(GaveUp, match=code):
        review(ipc, SNAKE)
    assert seen(host) == [("gov_approve", "Security")]


def test_without_a_context_pack_nothing_is_approved(ipc: Path, host: Any) -> None:
    """Fail closed."""
    with pytest.raises(GaveUp, match="no context pack"):
        review(ipc, {})
    assert host.requests == []
