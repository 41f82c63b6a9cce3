"""What agents can do with MCP servers: call the tools that the operator lists, and see which servers there are."""

import asyncio
import json
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import (
    Action,
    ActionFailed,
    Effect,
    Environment,
    FailureMode,
    Params,
    Provider,
    Refused,
    Result,
)
from nanoclaw_broker.providers.mcp.schema import CheckTooSlow, SchemaRefused
from nanoclaw_broker.providers.mcp.server import CHECK_TOO_SLOW, ToolServer
from nanoclaw_broker.providers.mcp.settings import McpSettings, ToolSettings, action_name

if TYPE_CHECKING:
    from mcp_types import CallToolResult

_MOST_WORDS = 1_500
_UNTOLD = '{"type":"object"}'


class Arguments(Params):
    """Whatever the tool's own schema lets pass."""

    model_config = ConfigDict(extra="allow")


class Nothing(Params):
    """No parameters."""


class CallTool(Action[Arguments]):
    """One tool of one server. Level, kind and the like are the operator's word; the rest is the server's."""

    params = Arguments
    failure_modes: ClassVar[tuple[FailureMode, ...]] = (
        FailureMode("MCP_TOOL_FAILED", "PERMANENT", 0.05),
        FailureMode("MCP_UNREACHABLE", "TRANSIENT", 0.01),
        FailureMode("MCP_REFUSED", "VALIDATION", 0.01),
        FailureMode("NO_REPLY", "TRANSIENT", 0.005),
    )

    def __init__(self, server: ToolServer, tool: str, settings: ToolSettings) -> None:
        self.server, self.tool, self.settings = server, tool, settings

    @property
    def told(self) -> str:
        """What it does, in the operator's words or the server's."""
        known = self.server.tools.get(self.tool)
        said = self.settings.description or (known.description if known is not None else "")
        return said or f"the tool {self.tool} of the MCP server {self.server.name}"

    @property
    def schema_text(self) -> str:
        """The server's schema, as it was when it was last connected."""
        known = self.server.tools.get(self.tool)
        return known.schema.text if known is not None and known.schema is not None else _UNTOLD

    def check(self, params: Arguments) -> None:
        """By the server's schema, as far as it is known; it is checked again when it is called."""
        known = self.server.tools.get(self.tool)
        if known is None or known.schema is None:
            return
        try:
            problems = known.schema.problems(params.model_extra or {})
        except SchemaRefused:
            return
        except CheckTooSlow:
            message, step = self.server.too_slow(self.tool)
            raise Refused(CHECK_TOO_SLOW, message, step, passing=True) from None
        if problems:
            raise Refused("INVALID_PARAMS", "; ".join(problems), "mend the parameters")

    def circuit(self, params: Arguments) -> str:
        """Each server by itself."""
        return self.server.name

    def cost_micros(self, params: Arguments) -> int:
        """As configured."""
        return self.settings.cost_micros

    def summary(self, params: Arguments) -> str:
        """The tool and its server; nothing of the arguments."""
        return f"{self.tool} at {self.server.name}"

    def render(self, params: Arguments) -> str:
        """The call as the server gets it."""
        given = json.dumps(params.model_extra or {}, indent=2, ensure_ascii=False)
        return f"{self.tool} of the MCP server {self.server.name}\n{given}"

    async def execute(self, params: Arguments, effect: Effect) -> Result:
        """One call, never repeated."""
        mutating = self.settings.kind == "mutating"
        given = params.model_extra or {}
        answer = await self.server.call(self.tool, given, self.settings.seconds, mutating=mutating)
        data = _data(answer)
        if answer.is_error:
            words = data["text"] or "without a reason"
            raise ActionFailed(
                "MCP_TOOL_FAILED",
                f"{self.tool} says that it failed: {excerpt(words, _MOST_WORDS)}",
                next_steps=("read what it says, and mend the parameters",),
                cost_micros=self.settings.cost_micros,
            )
        return Result(data, f"{len(data['text'])} characters")


class ListServers(Action[Nothing]):
    """Which servers there are."""

    name: ClassVar[str] = "servers"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.PURE
    description: ClassVar[str] = "list the MCP servers, whether they are connected, and which actions are theirs"
    params = Nothing

    def __init__(self, servers: tuple[ToolServer, ...]) -> None:
        self._servers = servers

    async def execute(self, params: Nothing, effect: Effect) -> Result:
        """As they stand now."""
        listed = [
            {
                "name": server.name,
                "connected": server.connected.is_set(),
                "actions": sorted(action_name(server.name, tool) for tool in server.settings.tools),
            }
            for server in self._servers
        ]
        return Result({"servers": listed}, f"{len(listed)} servers")


def _data(answer: "CallToolResult") -> dict[str, Any]:
    """Its texts, its structured value, and whatever else it holds."""
    blocks = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in answer.content]
    data: dict[str, Any] = {"text": "\n".join(block["text"] for block in blocks if block["type"] == "text")}
    if answer.structured_content is not None:
        data["structured"] = answer.structured_content
    others = [block for block in blocks if block["type"] != "text"]
    return {**data, "others": others} if others else data


def _action(server: ToolServer, tool: str, settings: ToolSettings) -> CallTool:
    """A class of its own for each tool: what an action is, is said by its class."""
    said = {
        "name": action_name(server.name, tool),
        "level": settings.access_level,
        "kind": Kind(settings.kind),
        "unknown_ends_by": UnknownEnd(settings.unknown_ends_by),
        "timeout_seconds": settings.seconds,
        "description": CallTool.told,
        "params_schema": CallTool.schema_text,
    }
    made: CallTool = type("CallTool", (CallTool,), said)(server, tool, settings)
    return made


def provider(environment: Environment) -> Provider:
    """The provider. Raises INVALID_SETTING."""
    settings = environment.section("mcp", McpSettings)
    servers = tuple(
        ToolServer(name, given, environment.secret, environment.changed, environment.scrub)
        for name, given in settings.servers.items()
    )
    tools = [_action(server, tool, given) for server in servers for tool, given in server.settings.tools.items()]

    async def start() -> None:
        await asyncio.gather(*(server.start() for server in servers))

    async def close() -> None:
        await asyncio.gather(*(server.close() for server in servers))

    return Provider(
        "mcp",
        "call tools of the operator's MCP servers",
        (ListServers(servers), *tools),
        start=start if servers else None,
        close=close if servers else None,
        secrets_in_part=tuple(sorted({name for server in servers for name in server.settings.wanted_secrets})),
    )
