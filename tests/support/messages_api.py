"""A messages API server for tests: its documented statuses, error bodies, rate-limit headers, whole and broken streams.

What it answers is set by the test, one `Reply` for each request to come, or by `thinks`; without either it says hello.
"""

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-test-8c1d7f0a93b24e56"
PRICES = {"claude-test": {"input": 3.0, "output": 15.0}, "claude-dear": {"input": 15, "output": 75}}
"""Dollars per million tokens, as `configure` writes them."""
BETAS: tuple[tuple[str, Callable[[dict[str, Any]], bool], str], ...] = (
    (
        "context-management-",
        lambda asked: "context_management" in asked,
        "context_management: Extra inputs are not permitted",
    ),
    (
        "mid-conversation-system-",
        lambda asked: any(message.get("role") == "system" for message in asked["messages"]),
        "messages: roles must alternate between user and assistant",
    ),
)
"""What only a header `anthropic-beta` that begins so allows, and how it is refused without."""
ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


@dataclass
class Reply:
    """What one request gets. texts: the deltas of the answer. status: another than 200 is an error.

    breaks_after: so many deltas, then the connection is gone. error_after: then an `error` event. pauses: waited for
    before each delta. raw: sent as it is in place of a body. blocks: in place of texts, whole blocks of content.
    """

    texts: tuple[str, ...] = ("Hello", ", ", "world")
    status: int = 200
    message: str = "no"
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=lambda: {"input_tokens": 12, "output_tokens": 7})
    stop_reason: str = "end_turn"
    breaks_after: int | None = None
    error_after: int | None = None
    ends_after: int | None = None
    pause: "Callable[[int], Any] | None" = None
    raw: bytes | None = None
    blocks: "list[dict[str, Any]] | None" = None


class MessagesApi:
    """One server on a loopback port of its own, in a thread. key: what it takes for a credential."""

    def __init__(self, key: str = KEY, models: tuple[str, ...] = ("claude-test", "claude-dear")) -> None:
        self.key = key
        self.models = models
        self.replies: deque[Reply] = deque()
        self.thinks: Callable[[dict[str, Any]], Reply] = lambda asked: Reply()
        """What a request gets for which no reply was set."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.aborted = threading.Event()
        """Somebody went away in the middle of a stream."""
        self.streaming = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        routes = [
            Route("/v1/messages", self._messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", timeout_keep_alive=60)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> "MessagesApi":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._socket.close()

    def next(self, *replies: Reply) -> None:
        """What the next requests get."""
        self.replies.extend(replies)

    def configure(self, home: Path, **more: Any) -> None:
        """What an operator writes: the table `[llm]`, and the key's file."""
        settings = {"base_url": self.url} | more
        lines = ["[llm]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
        for model, prices in PRICES.items():
            lines += [f'[llm.models."{model}"]', *(f"{name} = {value}" for name, value in prices.items())]
        (home / "config").mkdir(exist_ok=True)
        (home / "config" / "providers.toml").write_text("\n".join(lines))
        (home / "secrets" / "broker").mkdir(exist_ok=True, parents=True)
        key = home / "secrets" / "broker" / "llm_api_key"
        key.write_text(self.key)
        key.chmod(0o600)

    async def _messages(self, request: Request) -> Response:
        asked, refused = await self._read(request)
        if refused is not None:
            return refused
        reply = self.replies.popleft() if self.replies else self.thinks(asked)
        if reply.raw is not None:
            return Response(reply.raw, reply.status, media_type="application/json")
        if reply.status != 200:
            return error(reply.status, reply.message, reply.headers)
        if "max_tokens" not in asked:
            return error(400, "max_tokens: Field required")
        limits = {"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49"}
        headers = {"request-id": "req_test", **limits, **reply.headers}
        if asked.get("stream"):
            stream = self._blocks(asked, reply) if reply.blocks else self._stream(asked, reply)
            return StreamingResponse(stream, headers=headers, media_type="text/event-stream")
        if reply.pause is not None:
            await asyncio.to_thread(reply.pause, 0)
        content = reply.blocks or [{"type": "text", "text": "".join(reply.texts)}]
        return JSONResponse(
            self._message(asked) | {"content": content, "stop_reason": reply.stop_reason, "usage": dict(reply.usage)},
            headers=headers,
        )

    async def _count(self, request: Request) -> Response:
        asked, refused = await self._read(request)
        return refused or JSONResponse({"input_tokens": 10 * len(asked["messages"])})

    async def _read(self, request: Request) -> tuple[dict[str, Any], Response | None]:
        self.headers.append(dict(request.headers))
        self.paths.append(str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""))
        asked = json.loads(await request.body())
        self.requests.append(asked)
        given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if given != self.key:
            return asked, error(401, f"invalid x-api-key {given}")
        if "anthropic-version" not in request.headers:
            return asked, error(400, "anthropic-version: header is required")
        if asked.get("model") not in self.models:
            return asked, error(404, f"model: {asked.get('model')}")
        betas = f",{request.headers.get('anthropic-beta', '')}"
        for beta, holds, why in BETAS:
            if holds(asked) and f",{beta}" not in betas:
                return asked, error(400, why)
        return asked, None

    def _message(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": "msg_test", "type": "message", "role": "assistant", "model": asked["model"], "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 1},
        }  # fmt: skip

    async def _blocks(self, asked: Mapping[str, Any], reply: Reply) -> AsyncIterator[str]:
        """Whole blocks as events; the input of a tool comes in pieces, as it does from a model."""
        yield event("message_start", message=self._message(asked) | {"usage": dict(reply.usage)})
        for index, block in enumerate(reply.blocks or ()):
            empty, kind, name, text = {"text": ""}, "text_delta", "text", block.get("text", "")
            if block["type"] == "tool_use":
                empty, kind, name, text = {"input": {}}, "input_json_delta", "partial_json", json.dumps(block["input"])
            yield event("content_block_start", index=index, content_block=block | empty)
            for start in range(0, len(text), 20):
                yield event("content_block_delta", index=index, delta={"type": kind, name: text[start : start + 20]})
            yield event("content_block_stop", index=index)
        delta = {"stop_reason": reply.stop_reason, "stop_sequence": None}
        yield event("message_delta", delta=delta, usage={"output_tokens": reply.usage["output_tokens"]})
        yield event("message_stop")

    async def _stream(self, asked: Mapping[str, Any], reply: Reply) -> AsyncIterator[str]:
        self.streaming.set()
        try:
            inputs = {name: n for name, n in reply.usage.items() if name != "output_tokens"}
            yield event("message_start", message=self._message(asked) | {"usage": {**inputs, "output_tokens": 1}})
            yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            yield event("ping")
            for number, text in enumerate(reply.texts):
                if number == reply.breaks_after:
                    raise ConnectionResetError  # uvicorn closes the connection in the middle of the body
                if number == reply.ends_after:
                    return
                if number == reply.error_after:
                    yield event("error", error={"type": "overloaded_error", "message": "Overloaded"})
                    return
                if reply.pause is not None:
                    await asyncio.to_thread(reply.pause, number)
                yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
            yield event("content_block_stop", index=0)
            delta = {"stop_reason": reply.stop_reason, "stop_sequence": None}
            yield event("message_delta", delta=delta, usage={"output_tokens": reply.usage["output_tokens"]})
            yield event("message_stop")
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.set()
            raise


def event(kind: str, **fields: Any) -> str:
    """One event as it stands in a stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


def assert_key_nowhere(home: Path) -> None:
    """In no file that the system wrote: database, logs, mailboxes, the agent's own."""
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink() and path != home / "secrets" / "broker" / "llm_api_key":
            assert KEY.encode() not in path.read_bytes(), path


def error(status: int, message: str, headers: Mapping[str, str] = {}) -> JSONResponse:
    """An error as the API words it."""
    body = {"type": "error", "error": {"type": ERRORS[status], "message": message}, "request_id": "req_test"}
    return JSONResponse(body, status, headers={"request-id": "req_test", **headers})
