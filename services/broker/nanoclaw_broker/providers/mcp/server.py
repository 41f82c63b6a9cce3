"""One MCP server: kept connected, connected again after a crash, asked to call its tools."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import SecretStr, ValidationError

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.base import ActionFailed, NoReply
from nanoclaw_broker.providers.mcp.schema import REST_SECONDS, CheckTooSlow, Schema, SchemaRefused
from nanoclaw_broker.providers.mcp.settings import ServerSettings
from nanoclaw_core.errors import NanoclawError

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp_types import CallToolResult

log = structlog.get_logger()

START_SECONDS = 5.0
"""How long the broker's start waits for a server; it goes on without."""
_CONNECT_SECONDS = 20.0
_STEADY_SECONDS = 60.0
_CANCEL_SECONDS = 1.0
_MOST_PAGES = 50
_LATER = "send it again later"
CHECK_TOO_SLOW = "MCP_CHECK_TOO_SLOW"
_MOST_DESCRIPTION = 1000
_METHOD_NOT_FOUND, _INVALID_PARAMS, _INVALID_REQUEST = -32601, -32602, -32600
_HEADER_MISMATCH = -32020
"""Refused unseen: its tools are others than when it was connected."""


@dataclass(slots=True)
class Pauses:
    """Between attempts to connect, in seconds: twice as long each time, from `first` up to `longest`."""

    first: float = 0.5
    longest: float = 30.0


@dataclass(frozen=True, slots=True)
class Tool:
    """What the server says of a tool. schema: None where it can't be enforced, for the reason `refused`."""

    description: str
    schema: Schema | None
    refused: str = ""


@dataclass
class ToolServer:
    """A server by its name in the configuration.

    secret: the value of a secret by name. changed: called when it is connected, as its tools may be others than before.
    scrub: takes secrets out of what it says of its tools, as it may say what it was given.
    """

    name: str
    settings: ServerSettings
    secret: Callable[[str], SecretStr]
    changed: Callable[[], None] = field(default=lambda: None)
    scrub: Callable[[Any], Any] = field(default=lambda value: value)
    pauses: Pauses = field(default_factory=Pauses)
    monotonic: Callable[[], float] = time.monotonic
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """Of the last connection, whether it still stands or not."""
    why: str = "it was never connected"

    def __post_init__(self) -> None:
        self._client: Client | None = None
        self._ended = asyncio.Event()
        self._tried = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._closing = False
        self.connected = asyncio.Event()

    async def start(self) -> None:
        """Connects, now or as soon as it can be."""
        self._keeping = asyncio.create_task(self._keep())
        waiting = asyncio.create_task(self._tried.wait())
        await asyncio.wait({waiting}, timeout=START_SECONDS)
        waiting.cancel()

    async def close(self) -> None:
        """Ends the connection, and the child where there is one."""
        self._closing = True
        while self._keeping is not None and not self._keeping.done():
            # More than once where it must be: the library's own scopes may take a cancellation for theirs.
            self._keeping.cancel()
            await asyncio.wait({self._keeping}, timeout=_CANCEL_SECONDS)

    async def call(
        self, tool: str, arguments: Mapping[str, Any], seconds: float, *, mutating: bool
    ) -> "CallToolResult":
        """The tool's answer. Raises ActionFailed where it surely was not done, NoReply where nobody can say."""
        client = self._client
        if client is None:
            raise self._unreachable(self.why)
        self._check(tool, arguments)
        from mcp.shared.exceptions import MCPError

        from nanoclaw_broker.providers.mcp import wire

        try:
            return await wire.call_tool(client, tool, arguments, seconds)
        except MCPError as error:
            raise self._meaning(error.code, error.message, mutating=mutating) from None
        except (RuntimeError, ValidationError) as error:
            raise NoReply(f"what {self.name} answers is not what it should be: {type(error).__name__}") from None

    def _check(self, tool: str, arguments: Mapping[str, Any]) -> None:
        known = self.tools.get(tool)
        step = self._ask_an_operator
        if known is None:
            raise ActionFailed("MCP_TOOL_MISSING", f"{self.name} has no tool {tool}", next_steps=(step,))
        if known.schema is None:
            message = f"the schema of {tool} is refused: {known.refused}"
            raise ActionFailed("MCP_SCHEMA_REFUSED", message, next_steps=(step,))
        try:
            problems = known.schema.problems(arguments)
        except SchemaRefused as refused:
            message = f"the schema of {tool} is refused: {refused}"
            raise ActionFailed("MCP_SCHEMA_REFUSED", message, next_steps=(step,)) from None
        except CheckTooSlow:
            message, step = self.too_slow(tool)
            raise ActionFailed(CHECK_TOO_SLOW, message, next_steps=(step,)) from None
        if problems:
            raise ActionFailed("INVALID_PARAMS", "; ".join(problems), next_steps=("mend the parameters",))

    def too_slow(self, tool: str) -> tuple[str, str]:
        """What to say where a check was broken off, and what to do."""
        message = f"whether the parameters fit the schema of {tool} takes too long to find out; nothing was sent"
        return message, f"send less, or something else, in {REST_SECONDS:.0f} s, or {self._ask_an_operator}"

    @property
    def _ask_an_operator(self) -> str:
        return f"ask an operator to look at [mcp.servers.{self.name}]"

    def _meaning(self, code: int, words: str, *, mutating: bool) -> Exception:
        from nanoclaw_broker.providers.mcp.wire import NOT_SENT

        if code == NOT_SENT:
            self._lose()
            return self._unreachable("it does not answer")
        if code == _HEADER_MISMATCH or (code == _INVALID_REQUEST and words == "Session terminated"):
            self._lose()
            message = f"the MCP server {self.name} does not know the connection any more; nothing was done"
            return ActionFailed("MCP_UNREACHABLE", message, next_steps=(_LATER,), in_trouble=True)
        if mutating and code not in (_METHOD_NOT_FOUND, _INVALID_PARAMS):
            # Without its words: where an answer can't be parsed they are the library's, and hold pieces of it.
            return NoReply(f"{self.name} did not say what became of it (error {code})")
        return ActionFailed(
            "MCP_REFUSED",
            f"{self.name} answers: {excerpt(words, 1000)}",
            next_steps=("mend the parameters, or try again later",),
            in_trouble=code not in (_METHOD_NOT_FOUND, _INVALID_PARAMS),
            mcp_code=code,
        )

    def _unreachable(self, why: str) -> ActionFailed:
        message = f"the MCP server {self.name} is not connected: {why}; nothing was sent"
        return ActionFailed("MCP_UNREACHABLE", message, next_steps=(_LATER,), in_trouble=True)

    async def _keep(self) -> None:
        """Connected for ever, with pauses that grow while it keeps failing."""
        pause = self.pauses.first
        while not self._closing:
            began = self.monotonic()
            try:
                await self._hold()
            except Exception as error:
                self.why = _cause(error)
            finally:
                self._client = None
                self.connected.clear()
            self._tried.set()
            log.warning("mcp_server_down", server=self.name, why=self.why)
            steady = self.monotonic() - began > _STEADY_SECONDS
            pause = self.pauses.first if steady else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, self.pauses.longest)

    async def _hold(self) -> None:
        """One connection, until it ends."""
        from nanoclaw_broker.providers.mcp import wire

        self._ended.clear()
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(_CONNECT_SECONDS):
                made = wire.client(self.settings, self.secret, self._ended)
                client = await stack.enter_async_context(made)
                self.tools = await self._list(client)
            self._client = client
            self.connected.set()
            self.changed()
            self._tried.set()
            log.info("mcp_server_up", server=self.name, tools=len(self.tools))
            await self._ended.wait()
            self._lose()  # before the connection is closed

    def _lose(self) -> None:
        """No call begins on the connection any more, and nobody takes it for one; it is closed, and made anew."""
        self._client, self.why = None, "it ended"
        self.connected.clear()
        self._ended.set()

    async def _list(self, client: "Client") -> dict[str, Tool]:
        """What it says of the tools that are configured; others are nobody's business."""
        found: dict[str, Tool] = {}
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if tool.name in self.settings.tools:
                    found[tool.name] = _tool(self.scrub(tool.description or ""), self.scrub(tool.input_schema))
            cursor = page.next_cursor
            if cursor is None:
                break
        return found


def _tool(description: str, document: Mapping[str, Any]) -> Tool:
    description = excerpt(" ".join(description.split()), _MOST_DESCRIPTION)
    try:
        return Tool(description, Schema(document))
    except SchemaRefused as refused:
        return Tool(description, None, str(refused))


def _cause(error: BaseException) -> str:
    """The innermost kind of error; its text may hold anything."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.reason if isinstance(error, NanoclawError) else type(error).__name__
