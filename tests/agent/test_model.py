"""A model asked by the relay's socket: text where it worked, codes and next steps where not, again where told."""

import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from nanoclaw_agent.model import Model
from nanoclaw_agent.plan import read_plan

TEXT = {"content": [{"type": "text", "text": "four"}, {"type": "other"}, {"type": "text", "text": "teen"}]}
BUSY = {"type": "error", "error": {"type": "rate_limit_error", "message": "later", "code": "BUSY"}}
NO = {
    "type": "error",
    "error": {
        "type": "permission_error", "message": "no grant", "code": "NO_CAPABILITY",
        "next_steps": ["ask for one"], "facts": {"check": "9 capability"},
    },
}  # fmt: skip


class Relay(ThreadingUnixStreamServer):
    """The broker's side: each request gets the next answer."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.asked: list[Any] = []
        super().__init__(str(path), Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        request, _ = super().get_request()
        return request, ("relay", 0)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        relay: Any = self.server
        relay.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        status, value, headers = relay.answers.pop(0)
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def relay() -> Iterator[Relay]:
    folder = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp"))
    server = Relay(folder / "llm.sock")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    shutil.rmtree(folder)


def test_it_answers_the_text(relay: Relay) -> None:
    """Of all blocks that are text."""
    relay.answers = [(200, TEXT, {})]
    answer = Model("m", str(relay.path)).ask("7+7", max_tokens=9, system="be brief")
    assert (answer.ok, answer.data) == (True, "fourteen")
    messages = [{"role": "user", "content": "7+7"}]
    assert relay.asked == [{"model": "m", "max_tokens": 9, "messages": messages, "system": "be brief"}]


def test_a_no_is_data(relay: Relay) -> None:
    """Our code and next step; it is not asked again."""
    relay.answers = [(403, NO, {"x-should-retry": "false"})]
    answer = Model("m", str(relay.path)).ask("hi")
    assert (answer.status, answer.code, answer.next_steps) == ("denied", "NO_CAPABILITY", ("ask for one",))
    assert len(relay.asked) == 1


def test_what_may_pass_is_asked_again_after_the_pause(relay: Relay) -> None:
    """As long as the relay says, three times in all."""
    again = {"x-should-retry": "true", "retry-after": "7"}
    slept: list[float] = []
    relay.answers = [(429, BUSY, again), (429, BUSY, {**again, "retry-after": "900"}), (200, TEXT, {})]
    assert Model("m", str(relay.path), slept.append).ask("hi").ok
    assert slept == [7.0, 30.0]
    relay.answers = [(429, BUSY, again)] * 3
    assert Model("m", str(relay.path), slept.append).ask("hi").code == "BUSY"
    assert len(relay.asked) == 6


def test_a_relay_that_does_not_answer_is_a_code(relay: Relay) -> None:
    """Whatever it says instead, or not."""
    slept: list[float] = []
    relay.answers = [(200, b"<html>", {})] * 3
    for path in (str(relay.path), str(relay.path) + "x"):
        assert Model("m", path, slept.append).ask("hi").code == "RELAY_UNAVAILABLE"
    assert Model("m", "").ask("hi").code == "NO_RELAY"


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("think m-1: Name it -> name.md", ("think", "Name it", "name.md", ("m-1", ""))),
        ("think m-1: a -> b c", ("think", "a -> b c", "", ("m-1", ""))),
        ("think m-1: Why?", ("think", "Why?", "", ("m-1", ""))),
    ],
)
def test_a_plan_may_ask_a_model(line: str, step: tuple[Any, ...]) -> None:
    """And keep the answer."""
    (found,) = read_plan({"description": f"do: {line}"}).work
    assert (found.kind, found.text, found.path, found.target) == step


@pytest.mark.parametrize("line", ["think", "think m-1", "think m-1:", "think m 1: x", "think m: x -> ../y"])
def test_a_thought_that_can_not_be_followed_is_quoted(line: str) -> None:
    """The task is blocked with it."""
    with pytest.raises(ValueError, match="can't follow the step"):
        read_plan({"description": f"do: {line}"})
