"""How a server is spoken to: a client over stdio or streamable HTTP that notices when the other end goes.

Imported at the first connection: the `mcp` package costs 30 MB.
"""

import asyncio
import logging
import secrets as random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any

import anyio
import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult, Implementation
from pydantic import SecretStr

from nanoclaw_broker.providers.mcp import stdio
from nanoclaw_broker.providers.mcp.settings import ServerSettings

# The library logs what it can't parse, whatever it holds; and what is wrong is told by errors.
for _name in ("mcp", "client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

NOT_SENT = -10_000_000 - random.randbelow(10**12)
"""Our own code, of an error that says that a request never left; no server can know it, nor pretend."""
MOST_ANSWER = 4 * 1024 * 1024
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 60.0


def client(settings: ServerSettings, secret: Callable[[str], SecretStr], ended: asyncio.Event) -> Client:
    """A client that is not connected yet. ended: set when the other end is gone."""
    opened = _stdio(settings, secret) if settings.command else _http(settings, secret)
    return Client(_watched(opened, ended), cache=None, client_info=Implementation(name="nanoclaw-broker", version="1"))


async def call_tool(client: Client, tool: str, arguments: Mapping[str, Any], seconds: float) -> CallToolResult:
    """One request, and what is answered to it. Raises MCPError, ValidationError.

    The library's own `call_tool` asks again where the server wants that, and holds the answer against a schema of the
    server's, on our loop and for however long that takes; what was done was done, whatever the answer looks like.
    """
    asked = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=dict(arguments)))
    return await client.session.send_request(asked, CallToolResult, seconds)


def _stdio(settings: ServerSettings, secret: Callable[[str], SecretStr]) -> AbstractAsyncContextManager[Any]:
    """The child gets PATH, HOME and the like, and what is configured."""
    environment = {**settings.environment}
    environment |= {name: secret(given).get_secret_value() for name, given in settings.secrets.items()}
    return stdio.opened(settings.command, environment, settings.folder, MOST_ANSWER)


@asynccontextmanager
async def _http(settings: ServerSettings, secret: Callable[[str], SecretStr]) -> AsyncIterator[Any]:
    """The secret is read for each request, so that a new one is in force at once."""

    async def authorize(request: httpx2.Request) -> None:
        if settings.bearer_secret:
            request.headers["authorization"] = f"Bearer {secret(settings.bearer_secret).get_secret_value()}"

    client = httpx2.AsyncClient(
        transport=_Transport(),
        timeout=httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
        trust_env=False,
        event_hooks={"request": [authorize]},
    )
    async with client, streamable_http_client(settings.url, http_client=client) as streams:
        yield streams


class _Transport(httpx2.AsyncHTTPTransport):
    """Says what never left, in place of an error that would end every call on the connection; bounds answers."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await super().handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": NOT_SENT, "message": "no connection"}}
            return httpx2.Response(503, json=error, request=request)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream)
        return response


class _Bounded(httpx2.AsyncByteStream):
    """A body of MOST_ANSWER bytes at the most; events are bounded one by one by the transport."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MOST_ANSWER:
                raise httpx2.StreamError(f"an answer of more than {MOST_ANSWER} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def _watched(opened: Any, ended: asyncio.Event) -> AsyncIterator[Any]:
    async with opened as (read, write):
        yield _Watched(read, ended), write


class _Watched:
    """The stream of what a server sends, which tells when there will be no more."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        """As the transport's streams have it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        """The next message."""
        try:
            return await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._ended.set()
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "_Watched":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()
