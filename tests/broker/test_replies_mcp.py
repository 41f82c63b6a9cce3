"""What an MCP server answers, as bytes, over stdio and HTTP: whatever they are, the call ends, and rightly."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mcp_bytes
import outcomes
import pytest
from hostile import damaged, dumped, nearly_json, values
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcp_bytes import ID
from planted import ECHOES
from point import Point
from pydantic import ValidationError

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import breaker
from nanoclaw_broker.providers import ActionFailed, Effect, Environment, NoReply, Provider, Refused
from nanoclaw_broker.providers.mcp import provider, server
from nanoclaw_broker.providers.mcp.server import Pauses, ToolServer

TOKEN = "pl4nted-token+of/the-broker=="
TOOLS = {
    "note": {"level": "L2", "kind": "mutating", "unknown_ends_by": "harmless", "seconds": 0.25},
    "look": {"level": "L1", "kind": "read", "seconds": 0.25},
}
ANSWER = {"content": [{"type": "text", "text": "done"}], "structuredContent": {"n": 1}, "isError": False}
ASKED = ["sampling/createMessage", "elicitation/create", "roots/list", "ping", "tools/list", "notifications/progress",
         "notifications/tools/list_changed", "notifications/cancelled", "x"]  # fmt: skip


def message(**members: Any) -> bytes:
    """One JSON-RPC message, with the id of the request."""
    return dumped({"jsonrpc": "2.0", "id": "@ID@", **members}).replace(b'"@ID@"', ID)


def block(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


said = st.sampled_from(sorted(ECHOES)).map(lambda how: "the token is " + ECHOES[how](TOKEN))
results = (
    st.fixed_dictionaries({}, optional={name: st.just(value) | values for name, value in ANSWER.items()})
    | st.fixed_dictionaries({"content": st.lists(st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image", "audio", "resource", "resource_link", "x"])},
        optional={"text": values | said, "data": values, "mimeType": values, "resource": values, "uri": said},
    ), max_size=3), "isError": st.booleans()})
    | said.map(block)
    | said.map(lambda text: block(text) | {"isError": True})
    | st.integers(1400, 1500).map(lambda size: block("x" * size + " " + TOKEN) | {"isError": True})
    | values
)  # fmt: skip
codes = st.sampled_from([-32601, -32602, -32600, -32700, -32603, -31_001, 0, 1, 2**40]) | st.integers()
errors = st.fixed_dictionaries({"code": codes | values, "message": said | values}, optional={"data": values})
DEEP = 20_000
messages = (
    results.map(lambda result: message(result=result))
    | errors.map(lambda error: message(error=error))
    | st.tuples(st.sampled_from(ASKED), values).map(lambda asked: message(method=asked[0], params=asked[1]))
    | st.tuples(values, results).map(lambda one: dumped({"jsonrpc": "2.0", "id": one[0], "result": one[1]}))
    | results.map(lambda result: b"[" + message(result=result) + b"]")
    | nearly_json
    | st.sampled_from(
        [b'{"jsonrpc":"2.0","id":' + ID + b',"result":' + b"[" * DEEP + b"]" * DEEP + b"}",
         message(result=block("x" * 5_000_000)), message(result=block("x" * 200_000)), b"x" * 9_000_000,
         b"\xff\xfe", b""]
    )
)  # fmt: skip
replies = st.tuples(
    messages | messages.flatmap(lambda one: damaged(st.just(one))), st.sampled_from([b"\n", b"\n", b"\n\n", b""])
).map(b"".join)
statuses = st.sampled_from([200, 200, 200, 200, 202, 204, 301, 400, 401, 404, 405, 429, 500, 503, 999])
types = st.sampled_from([b"application/json", b"application/json", b"text/event-stream", b"text/html", b"\xff"])


class Http:
    """Streamable HTTP with whatever answer to a call. stays: the connection is left open after it. calls: that came.

    to: the method that is answered so.
    """

    def __init__(self, to: str = "tools/call") -> None:
        self.to = to
        self.reply, self.status, self.type, self.stays, self.calls = b"", 200, b"application/json", False, 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(sizes[0].partition(b":")[2]) if sizes else 0)
        if not head.startswith(b"POST"):
            writer.write(b"HTTP/1.1 405 X\r\ncontent-length: 0\r\n\r\n")
            return True
        request = json.loads(body)
        if request.get("method") != self.to:
            answer = mcp_bytes.hello(request, list(TOOLS))
            text = b"" if answer is None else json.dumps(answer).encode()
            kind = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text)
            writer.write((b"HTTP/1.1 202 X\r\n" if answer is None else b"HTTP/1.1 200 X\r\n") + kind + text)
            return True
        self.calls += 1
        reply = self.reply.replace(ID, json.dumps(request["id"]).encode())
        if self.type == b"text/event-stream":
            reply = b"event: message\ndata: " + reply.replace(b"\n", b" ") + b"\n\n"
        writer.write(b"HTTP/1.1 %d X\r\ncontent-type: %s\r\n\r\n" % (self.status, self.type) + reply)
        await writer.drain()
        if self.stays:
            await reader.read()
        return False


@asynccontextmanager
async def asking(
    start: Any, home: Path, told: dict[str, Any]
) -> AsyncIterator[Callable[[str], Awaitable[pb.CallResponse]]]:
    """A broker with the provider `hostile`, connected before each call."""
    (home / "secrets" / "broker").mkdir()
    path = home / "secrets" / "broker" / "far_token"
    path.touch(mode=0o600)
    path.write_text(TOKEN)
    servers: list[ToolServer] = []

    def made(environment: Environment) -> Provider:
        config = {"mcp": {"servers": {"far": {"tools": TOOLS, **told}}}}
        built = provider(replace(environment, config=config))
        servers.append(built.by_name["far_note"].server)  # type: ignore[attr-defined]
        servers[0].pauses = Pauses(0.01, 0.02)
        return replace(built, name="hostile")

    limits = {f"{kind}_l{level}": 10**6 for kind in ("rate", "soft", "hard") for level in (1, 2)}
    async with start(also=(Point("hostile", made),), reconcile_seconds=3600, **limits) as broker:
        await broker.grant("hostile", pb.ACCESS_LEVEL_L2)

        async def ask(tool: str) -> pb.CallResponse:
            await asyncio.wait_for(servers[0].connected.wait(), 10)
            answer: pb.CallResponse = await broker.call("hostile", f"far_{tool}", {"text": "x"})
            return answer

        yield ask


def judge(answer: pb.CallResponse, tool: str, reply: bytes) -> None:
    outcomes.check(answer, TOKEN, mutating=tool == "note")
    if answer.status == pb.CALL_STATUS_EXECUTED:
        assert b"result" in reply, answer
    if answer.status == pb.CALL_STATUS_FAILED and tool == "note":
        assert answer.code in ("MCP_TOOL_FAILED", "MCP_REFUSED", "MCP_UNREACHABLE"), answer


async def test_no_line_of_a_child_breaks_a_call(
    start: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over stdio; it may go after a line, or before it ends one."""
    monkeypatch.setattr(breaker, "FAILURES", 10**6)
    command = [sys.executable, "-I", "-S", mcp_bytes.__file__, str(tmp_path)]
    async with asking(start, home, {"command": command, "secrets": {"TOKEN": "far_token"}}) as ask:
        loop = asyncio.get_running_loop()
        tries = settings.default.max_examples // 10  # each is a whole call, and many wait

        @settings(max_examples=tries, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(sorted(TOOLS)), replies, st.booleans())
        @example("note", b"x" * 9_000_000, False)
        @example("note", message(result=ANSWER) + b"\n", True)
        @example("look", message(result=block(TOKEN) | {"isError": True}) + b"\n", False)
        @example("look", b"\xff\xfe\n", False)
        def never(tool: str, reply: bytes, leaves: bool) -> None:
            (tmp_path / "reply").write_bytes(reply)
            (tmp_path / "leaves").touch() if leaves else (tmp_path / "leaves").unlink(missing_ok=True)
            judge(asyncio.run_coroutine_threadsafe(ask(tool), loop).result(20), tool, reply)

        await asyncio.to_thread(never)


async def test_no_answer_over_http_breaks_a_call(start: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON and as events, under any status; what was surely not sent did not arrive."""
    monkeypatch.setattr(breaker, "FAILURES", 10**6)
    far_side = Http()
    listening = await asyncio.start_server(far_side.take, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp"
    async with listening, asking(start, home, {"url": url, "bearer_secret": "far_token"}) as ask:
        loop = asyncio.get_running_loop()
        tries = settings.default.max_examples // 10

        @settings(max_examples=tries, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(sorted(TOOLS)), replies, statuses, types, st.booleans())
        @example("note", message(result=ANSWER), 200, b"application/json", False)
        @example("note", b"x" * 9_000_000, 200, b"text/event-stream", True)
        @example("note", message(error={"code": -31_001, "message": "x"}), 200, b"application/json", False)
        @example("look", message(result=ANSWER), 500, b"application/json", True)
        def never(tool: str, reply: bytes, status: int, kind: bytes, stays: bool) -> None:
            far_side.reply, far_side.status, far_side.type, far_side.stays = reply, status, kind, stays
            far_side.calls = 0
            answer = asyncio.run_coroutine_threadsafe(ask(tool), loop).result(20)
            judge(answer, tool, reply)
            if answer.code == "MCP_UNREACHABLE" and "any more" not in answer.message:
                assert far_side.calls == 0, answer

        await asyncio.to_thread(never)


schemas = st.fixed_dictionaries({}, optional={
    "type": values | st.just("object"), "properties": values | st.dictionaries(st.text(max_size=3), values, max_size=2),
    "required": values | st.just(["text"]), "$ref": values | st.sampled_from(["#", "#/x", "http://127.0.0.1:1/"]),
    "pattern": values, "allOf": values, "$schema": values, "$id": values, "enum": values, "$defs": values,
})  # fmt: skip
listed = st.fixed_dictionaries({"tools": st.lists(st.fixed_dictionaries(
    {"name": st.sampled_from(sorted(TOOLS)) | values, "inputSchema": schemas | values},
    optional={"description": values, "annotations": values, "outputSchema": schemas | values},
), max_size=3) | values}, optional={"nextCursor": st.just("again") | values})  # fmt: skip
greetings = listed.map(lambda result: message(result=result)) | results.map(lambda one: message(result=one)) | replies


async def test_no_greeting_breaks_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of itself and its tools: the actions can be shown and checked, and it goes on being connected."""
    for name in ("START_SECONDS", "_CONNECT_SECONDS"):
        monkeypatch.setattr(server, name, 0.5)
    far_side = Http()
    listening = await asyncio.start_server(far_side.take, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp"
    environment = Environment(tmp_path, config={"mcp": {"servers": {"far": {"tools": TOOLS, "url": url}}}})
    far_side.status, loop = 200, asyncio.get_running_loop()

    async def greet(text: Any) -> None:
        made = provider(environment)
        assert made.start is not None
        assert made.close is not None
        far: ToolServer = made.by_name["far_note"].server  # type: ignore[attr-defined]
        far.pauses = Pauses(0.01, 0.02)
        await made.start()
        try:
            for action in (made.by_name["far_note"], made.by_name["far_look"]):
                assert isinstance(json.loads(action.params_schema), dict)
                action.description.encode("utf-8", "surrogatepass")
                with suppress(ValidationError):
                    params = action.params.model_validate({"text": text})
                    with suppress(Refused):
                        action.check(params)
                    with suppress(ActionFailed, NoReply, TimeoutError):
                        async with asyncio.timeout(1):
                            await action.execute(params, Effect("01CALL", "developer"))
            assert far._keeping is not None
            assert not far._keeping.done()
        finally:
            await made.close()

    tries = settings.default.max_examples // 10

    @settings(max_examples=tries, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["tools/list", "tools/list", "initialize"]), greetings, values)
    def never(to: str, reply: bytes, text: Any) -> None:
        far_side.to, far_side.reply = to, reply
        asyncio.run_coroutine_threadsafe(greet(text), loop).result(20)

    async with listening:
        await asyncio.to_thread(never)
