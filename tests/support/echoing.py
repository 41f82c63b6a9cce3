"""Another side that gives away every credential it knows: a web host, GitHub, a messages API and MCP in one server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp_bytes import hello
from planted import ECHOES
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


class Echoing:
    """secrets: what it says in each of its answers. on_request: told of each. credentials: what requests brought."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self.on_request: Callable[[], None] = lambda: None
        self.credentials: set[str] = set()
        self._stopped = asyncio.Event()

    def said(self, echo: str) -> str:
        """All of them, written in that way."""
        return " ".join(ECHOES[echo](secret) for secret in self._secrets)

    def _took(self, request: Request) -> None:
        self.on_request()
        given = request.headers.get("authorization", request.headers.get("x-api-key", ""))
        self.credentials.add(given.removeprefix("Bearer "))

    async def web(self, request: Request) -> Response:
        """`/web?echo=…&status=…&as=text|json|header|binary|hang`."""
        self._took(request)
        echo, status = request.query_params["echo"], int(request.query_params.get("status", 200))
        said = self.said(echo)
        match request.query_params.get("as", "text"):
            case "json":
                return JSONResponse({"said": [said], said: 1}, status)
            case "header":
                shown = "".join(sign if " " <= sign <= "~" else "?" for sign in said)[:490].rpartition(" ")[0]
                return PlainTextResponse("x", status, {"etag": shown, "link": shown})
            case "binary":
                return Response(said.encode(), status, media_type="application/octet-stream")
            case "hang":
                await self._stopped.wait()
        return PlainTextResponse(said, status)

    async def github(self, request: Request) -> Response:
        """What is asked for, or an error, full of secrets; the repository's name says how."""
        self._took(request)
        said = self.said(request.path_params["echo"].replace("_", " "))
        if request.method == "POST":
            errors = [{"resource": "Issue", "field": said, "code": "invalid"}, {"message": said}]
            return JSONResponse({"message": said, "errors": errors}, 422)
        return JSONResponse({"full_name": said, "description": said, "default_branch": said})

    async def messages(self, request: Request) -> Response:
        """A message, whole or streamed with each secret spread over its deltas, or an error."""
        self._took(request)
        asked = await request.json()
        echo = asked["messages"][0]["content"]
        said = self.said(echo.removeprefix("error "))
        if echo.startswith("error "):
            return JSONResponse({"type": "error", "error": {"type": "authentication_error", "message": said}}, 401)
        message = {
            "id": said, "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": said}], "usage": {"input_tokens": 1, "output_tokens": 1},
        }  # fmt: skip
        if not asked.get("stream"):
            return JSONResponse(message)
        return StreamingResponse(_stream(message, said), media_type="text/event-stream")

    async def mcp(self, request: Request) -> Response:
        """The tool `say`: an answer, a failure of its own, or an error of the protocol."""
        if request.method != "POST":
            return Response(status_code=405)
        asked = await request.json()
        if asked["method"] != "tools/call":
            answer = hello(asked, ["say"])
            return Response(status_code=202) if answer is None else JSONResponse(answer)
        self._took(request)
        given = asked["params"]["arguments"]
        said, answer = self.said(given["echo"]), {"jsonrpc": "2.0", "id": asked["id"]}
        if given["how"] == "error":
            return JSONResponse(answer | {"error": {"code": -32602, "message": said, "data": said}})
        content = {"content": [{"type": "text", "text": said}], "structuredContent": {said: [said]}}
        return JSONResponse(answer | {"result": content | {"isError": given["how"] == "failure"}})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Serves on a loopback port of its own."""
        app = Starlette(
            routes=[
                Route("/web", self.web, methods=["GET", "POST"]),
                Route("/mcp", self.mcp, methods=["GET", "POST", "DELETE"]),
                Route("/v1/messages", self.messages, methods=["POST"]),
                Route("/repos/acme/{echo}", self.github, methods=["GET"]),
                Route("/repos/acme/{echo}/issues", self.github, methods=["POST"]),
            ]
        )
        async with serving(app) as port:
            try:
                yield port
            finally:
                self._stopped.set()


async def _stream(message: dict[str, Any], said: str) -> AsyncIterator[str]:
    def event(kind: str, **members: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n"

    yield event("message_start", message={**message, "content": []})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for start in range(0, len(said), 5):
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": said[start : start + 5]})
    yield event("content_block_stop", index=0)
    yield event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9})
    yield event("message_stop")
