"""The file client answers with data, whatever the host does."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_agent.client import Client
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.mailbox import LONGEST_WAIT, Mailbox
from nanoclaw_agent.response import Response
from nanoclaw_agent.session import later_prompts


@pytest.fixture
def client(ipc: Path) -> Client:
    return Client(Environment(ipc_dir=str(ipc), group="developer"))


def test_an_answer_carries_all_that_the_host_said(client: Client, host: Any) -> None:
    """Data of a call that was executed."""
    host.answer = lambda request: {"status": "executed", "code": "OK", "data": {"n": 1}, "summary": "one"}
    answer = client.call("json", "transform", {})
    assert answer.ok
    assert (answer.data, answer.summary, answer.code) == ({"n": 1}, "one", "OK")


def test_a_refusal_is_data_with_its_code_facts_and_next_steps(client: Client, host: Any) -> None:
    """An agent decides what to do about a no; nothing is raised."""
    host.answer = lambda request: {
        "status": "denied",
        "code": "NO_CAPABILITY",
        "error": "no grant",
        "facts": {"level": "L0"},
        "next_steps": ["ask main for http L1"],
    }
    answer = client.call("http", "get", {"url": "http://example.test"})
    assert not answer.ok
    assert answer.code == "NO_CAPABILITY"
    assert answer.facts == {"level": "L0"}
    assert answer.why == "NO_CAPABILITY: no grant; next step: ask main for http L1"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"status": 1}', "{"])
def test_a_response_that_is_none_is_failed_with_its_code(client: Client, ipc: Path, content: str) -> None:
    """A broken host is told from a refusing one."""
    (ipc / "responses" / "r1.json").write_text(content)
    answer = client.mailbox.await_response("r1", 0)
    assert (answer.status, answer.code) == ("failed", "BAD_RESPONSE")


class Hands:
    """A clock that sleeping moves, and that remembers each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def test_without_an_answer_it_gives_up_after_its_time_and_has_not_spun(ipc: Path) -> None:
    """30 seconds of silence cost few looks, quick ones first, and end in TIMEOUT."""
    hands = Hands()
    mailbox = Mailbox(str(ipc), sleep=hands.sleep, monotonic=lambda: hands.now)
    answer = mailbox.await_response("r1", 30)
    assert (answer.status, answer.code) == ("timeout", "NO_ANSWER")
    assert answer.next_steps
    assert hands.sleeps[0] == 0.001
    assert max(hands.sleeps) == LONGEST_WAIT
    assert len(hands.sleeps) < 1600
    assert hands.now == pytest.approx(30)


@pytest.mark.parametrize("params", [{"x": float("nan")}, {"x": "\ud800"}, {"x": "a" * 2_000_000}, {"x": {1, 2}}])
def test_what_no_request_file_can_hold_is_refused_before_it_is_written(
    client: Client, ipc: Path, params: dict[str, Any]
) -> None:
    """NaN, half a surrogate pair, more than 1 MiB, and what is no JSON."""
    answer = client.call("json", "transform", params)
    assert (answer.status, answer.code) == ("failed", "INVALID_REQUEST")
    assert list((ipc / "tasks").iterdir()) == []


def test_a_mailbox_that_is_gone_is_an_answer_too(tmp_path: Path) -> None:
    """An agent outside any mailbox learns it in one line."""
    client = Client(Environment(ipc_dir=str(tmp_path / "nowhere")))
    assert client.call("json", "transform", {}).code == "MAILBOX_UNAVAILABLE"
    assert client.transition("t", "REVIEW").code == "MAILBOX_UNAVAILABLE"
    message = client.message("hello")
    assert isinstance(message, Response)
    assert message.code == "MAILBOX_UNAVAILABLE"
    assert client.tasks() == []
    assert client.capabilities() == {}


def test_a_message_is_left_for_the_operator_without_waiting(client: Client, ipc: Path) -> None:
    """Type, text, sender; a file in messages/."""
    assert client.message("all done", sender="dev") is None
    (file,) = (ipc / "messages").iterdir()
    value = json.loads(file.read_text())
    assert list(value) == ["type", "chatJid", "text", "sender", "timestamp"]
    assert (value["type"], value["text"], value["sender"]) == ("message", "all done", "dev")


def test_each_request_is_written_with_the_field_names_of_the_wire(client: Client, host: Any) -> None:
    """Field names are a contract with agents and hosts that exist; fields not given are absent."""
    client.approve("t1", "Security", "fine")
    client.assign("t1", "developer")
    client.grant("developer", "http", 1, allowed_actions=["get"])
    client.revoke("developer", "http")
    client.pending("t1")
    client.vote(True, "c1", "d1")
    client.vote(False, "c1", "d1", "no")
    ours = {"request_id", "timestamp"}
    assert [(r.pop("type"), set(r) - ours) for r in host.requests] == [
        ("gov_approve", {"taskId", "gate_type", "notes"}),
        ("gov_assign", {"taskId", "assigned_group"}),
        ("ext_grant", {"group_folder", "provider", "access_level", "allowed_actions"}),
        ("ext_revoke", {"group_folder", "provider"}),
        ("ext_pending", {"task_id"}),
        ("ext_approve", {"call_id", "params_digest"}),
        ("ext_reject", {"call_id", "params_digest", "notes"}),
    ]


def test_snapshots_are_read_as_they_are_and_broken_ones_are_empty(client: Client, host: Any, ipc: Path) -> None:
    """A snapshot is a view, not a promise: nothing to see is no error."""
    host.snapshot("gov_pipeline", {"generatedAt": "x", "tasks": [{"id": "t1"}, "odd"]})
    assert client.tasks() == [{"id": "t1"}]
    assert client.task("t1") == {"id": "t1"}
    assert client.task("t2") is None
    (ipc / "ext_capabilities.json").write_text("{half")
    assert client.capabilities() == {}


def test_later_prompts_come_once_each_and_in_order(client: Client, ipc: Path) -> None:
    """input/*.json by name; the end is input/_close."""
    (ipc / "input" / "2.json").write_text('{"type": "message", "text": "second"}')
    (ipc / "input" / "1.json").write_text('{"type": "message", "text": "first"}')
    (ipc / "input" / "3.json.tmp").write_text("{")
    assert client.mailbox.prompts() == ["first", "second"]
    assert client.mailbox.prompts() == []
    assert not client.mailbox.closed()
    (ipc / "input" / "_close").touch()
    assert client.mailbox.closed()


def test_an_agent_that_waits_for_prompts_gets_all_of_them_and_an_end(client: Client, ipc: Path) -> None:
    """What came together with the end is not lost."""

    def meanwhile(seconds: float) -> None:
        (ipc / "input" / "2.json").write_text('{"type": "message", "text": "second"}')
        (ipc / "input" / "_close").touch()

    (ipc / "input" / "1.json").write_text('{"type": "message", "text": "first"}')
    assert list(later_prompts(client.mailbox, meanwhile)) == ["first", "second"]
