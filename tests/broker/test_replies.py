"""What another side answers, as bytes: no reply breaks the broker, and none makes believe that something was done."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile import damaged, dumped, nearly_json, values
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import breaker

SHA = "a" * 40
HELLO = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "issue": ("github", "create_issue", {"repo": "acme/shop", "title": "t"}),
    "branch": ("github", "create_branch", {"repo": "acme/shop", "branch": "b", "sha": SHA}),
    "pull": ("github", "create_pull", {"repo": "acme/shop", "title": "t", "head": "a", "base": "b"}),
    "read": ("github", "list_issues", {"repo": "acme/shop"}),
    "ask": ("llm", "messages", HELLO),
    "stream": ("llm", "messages", HELLO | {"stream": True}),
    "count": ("llm", "count_tokens", {"model": "m", "messages": HELLO["messages"]}),
    "get": ("http", "get", {}),
    "post": ("http", "post", {"body": "x"}),
}
GITHUB = {"number": 7, "id": 8, "ref": "refs/heads/b", "sha": SHA, "title": "t", "html_url": "u"}
USAGE = {"input_tokens": 1, "output_tokens": 1}
MESSAGE = {
    "type": "message",
    "content": [{"type": "text", "text": "x"}],
    "usage": USAGE,
}
DEAR = [USAGE | {name: 10**30} for name in USAGE] + [USAGE | {name: -1} for name in USAGE]
EVENTS = [
    {"type": "message_start", "message": MESSAGE | {"content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
]


def twisted(whole: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """With members that are missing, or hold anything."""
    optional = {name: st.just(value) | values for name, value in whole.items()}
    return st.fixed_dictionaries({}, optional=optional)


def as_stream(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b"event: x\ndata: " + dumped(event) + b"\n\n" for event in events)


streams = st.lists(st.sampled_from(EVENTS) | st.sampled_from(EVENTS).flatmap(twisted), max_size=7).map(as_stream)
bodies = (
    nearly_json
    | twisted(GITHUB).map(dumped)
    | twisted(MESSAGE).map(dumped)
    | st.sampled_from(DEAR).map(lambda usage: dumped(MESSAGE | {"usage": usage}))
    | st.lists(twisted(GITHUB), max_size=3).map(dumped)
    | st.just(as_stream(EVENTS))
    | damaged(streams)
    | streams
)
headers = st.lists(
    st.sampled_from(
        [b"content-type: application/json", b"content-type: text/event-stream", b"content-encoding: gzip",
         b"etag: \xff", b"link: <x?page=9>; rel=\"next\"", b"retry-after: 0", b"transfer-encoding: chunked",
         b"content-type: \xe9;x", b"location: http://[", b"x-ratelimit-remaining: 0"]
    ), max_size=3, unique=True,
)  # fmt: skip
statuses = st.sampled_from([200, 201, 202, 204, 206, 301, 304, 400, 401, 403, 404, 409, 418, 422, 501, 505, 600, 999])


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Most are HTTP."""
    body = draw(bodies)
    length = [b"content-length: %d" % (len(body) + draw(st.sampled_from([0, 0, 0, 0, 5, -1])))] * draw(
        st.integers(0, 1)
    )
    lines = [b"HTTP/1.1 %d X" % draw(statuses), *length, *draw(headers)]
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + body
    return whole if draw(st.integers(0, 9)) else draw(damaged(st.just(whole)) | st.binary(max_size=80))


class Answering:
    """A server that answers each request with the bytes at hand, and hangs up."""

    reply = b""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)
            writer.write(self.reply)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def answering() -> AsyncIterator[tuple[Answering, int]]:
    """It, and its port."""
    far_side = Answering()
    server = await asyncio.start_server(far_side.take, "127.0.0.1", 0)
    async with server:
        yield far_side, server.sockets[0].getsockname()[1]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No breaker opens: every reply shall reach its parser."""
    monkeypatch.setattr(breaker, "FAILURES", 10**6)


def configure(home: Path, port: int) -> None:
    (home / "config").mkdir()
    (home / "config" / "providers.toml").write_text(
        f'[github]\nbase_url = "http://127.0.0.1:{port}"\nrepos = ["acme/*"]\n'
        f'[llm]\nbase_url = "http://127.0.0.1:{port}"\n[llm.models.m]\ninput = 1.0\noutput = 1.0\n'
        f'[http.write."127.0.0.1:{port}"]\nidempotency_key = true\n'
    )
    (home / "secrets" / "broker").mkdir()
    for name in ("github_token", "llm_api_key"):
        path = home / "secrets" / "broker" / name
        path.touch(mode=0o600)
        path.write_text("a-secret-of-ours")


def told(name: str, data: Any) -> bool:
    """Whether an answer says what was made, where something was."""
    wanted = {"issue": "number", "pull": "number", "branch": "ref", "ask": "content", "stream": "content"}
    return name not in wanted or (isinstance(data, dict) and bool(data.get(wanted[name]) or name in ("ask", "stream")))


async def test_no_reply_breaks_a_call_or_is_taken_for_what_it_is_not(start: Any, home: Path, patient: None) -> None:
    """Each ends, settled: done only where the reply says so, else failed, or unknown; none is left behind."""
    async with answering() as (far_side, port):
        configure(home, port)
        limits = {f"{kind}_l{level}": 10**6 for kind in ("rate", "soft", "hard") for level in (1, 2)}
        async with start(http_allow=f"127.0.0.1:{port}", reconcile_seconds=3600, **limits) as broker:
            loop, groups = asyncio.get_running_loop(), iter(range(10**9))

            async def call(name: str) -> pb.CallResponse:
                provider, action, params = CALLS[name]
                group = f"g{next(groups)}"  # a reply may say that it cost more than there is, which stops its group
                await broker.grant(provider, pb.ACCESS_LEVEL_L2, group)
                if provider == "http":
                    params = params | {"url": f"http://127.0.0.1:{port}/"}
                answer: pb.CallResponse = await broker.call(provider, action, params, group=group)
                return answer

            tries = settings.default.max_examples // 8  # each is a whole call

            @settings(max_examples=tries, suppress_health_check=list(HealthCheck))
            @given(st.sampled_from(sorted(CALLS)), replies())
            @example("ask", b"HTTP/1.1 200 X\r\n\r\n" + dumped(MESSAGE | {"usage": DEAR[0]}))
            @example("post", b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\n\r\nx")
            @example("issue", b"HTTP/1.1 200 X\r\n\r\n{}")
            @example("read", b"HTTP/1.1 200 X\r\netag: \xff\r\n\r\n")
            def never(name: str, reply: bytes) -> None:
                far_side.reply = reply
                answer = asyncio.run_coroutine_threadsafe(call(name), loop).result(20)
                mutating = name not in ("read", "count", "get")
                assert answer.code not in ("PROVIDER_ERROR", "UNDER_WAY"), answer
                if answer.status == pb.CALL_STATUS_EXECUTED:
                    assert reply.startswith(b"HTTP/1.1 "), answer
                    assert told(name, json.loads(answer.data_json or "null")), answer
                else:
                    assert answer.status in (pb.CALL_STATUS_FAILED, pb.CALL_STATUS_TIMEOUT), answer
                if mutating and answer.status == pb.CALL_STATUS_FAILED and name != "stream":
                    assert not reply.startswith(b"HTTP/1.1 2"), answer

            await asyncio.to_thread(never)
    with sqlite3.connect(home / "store" / "nanoclaw.db") as database:
        left = database.execute("SELECT count(*) FROM ext_calls WHERE state IN ('PREPARED', 'SENT')").fetchone()
    database.close()
    assert left == (0,)
