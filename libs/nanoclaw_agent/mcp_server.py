"""A stdio MCP server over the same files, so that any MCP-speaking agent works unchanged in a container.

Started as `python -m nanoclaw_agent.mcp_server`. It lists what the group may call now: a tool for each action that its
grants offer, and the requests that need no grant. Clients are told when that changes.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.session import ServerSession
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

from nanoclaw_agent.action_tool import MEMBERS, action_tool, narrowed
from nanoclaw_agent.client import Client
from nanoclaw_agent.mcp_tools import MAIN, MAIN_ONLY, Tools
from nanoclaw_agent.offered import Offered

log = logging.getLogger(__name__)

INSTRUCTIONS = (
    "You run in a governed container without a network. These tools are your only way out: gov_* move tasks through the"
    " gated state machine, ext_{provider}_{action} reach the outside world through a broker. Those are the ones that"
    " you may call now; the list changes with your grants, and ext_capabilities says what else there is. Every answer"
    " is data: where status is not executed, code says why and next_steps what would make it pass."
)

EXT_CALL = "ext_call"


class Listing:
    """The tools of one mailbox, for any number of clients."""

    def __init__(self, client: Client) -> None:
        self._offered = Offered(client.mailbox)
        self._fixed = MCPServer("nanoclaw", log_level="WARNING")
        for tool in Tools(client).all():
            self._fixed.add_tool(tool)
        self._hidden = MAIN_ONLY if client.environment.group not in ("", MAIN) else frozenset()
        self._sessions: set[ServerSession] = set()
        self.bus = InMemorySubscriptionBus()

    async def list(
        self, context: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """All of them in one page."""
        offers = (await self._offered.now()).by_name
        tools = [tool for tool in await self._fixed.list_tools() if tool.name not in self._hidden]
        by_any_name = next(tool for tool in tools if tool.name == EXT_CALL)
        tools.remove(by_any_name)
        if offers:
            tools.append(narrowed(by_any_name, offers.values()))
        tools += [action_tool(offers[name], by_any_name.output_schema) for name in sorted(offers)]
        return types.ListToolsResult(tools=tools)

    async def call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """A tool's answer. What is offered no more goes to the broker all the same, which says why not."""
        name, arguments = params.name, params.arguments or {}
        target = await self._offered.target(name)
        try:
            if target is not None:
                arguments = _for_ext_call(name, arguments) | {"provider": target[0], "action": target[1]}
                name = EXT_CALL
            return await self._fixed.call_tool(name, arguments)
        except ToolError as error:
            if isinstance(error, UnexpectedToolError):
                log.exception("tool %r stumbled", name)
            return types.CallToolResult(content=[types.TextContent(text=str(error))], is_error=True)

    async def welcome(self, context: ServerRequestContext[Any, Any], params: types.NotificationParams) -> None:
        """A client of the handshake's days is told of changes by itself; later ones ask to be, on the bus."""
        self._sessions.add(context.session)

    @asynccontextmanager
    async def watching(self, server: Server[Any]) -> AsyncIterator[None]:
        """Tells of changes while the block runs."""
        before = await self._offered.now()  # before anybody can list: what comes after that is told
        async with anyio.create_task_group() as group:
            group.start_soon(self._offered.watch, before, self._tell)
            yield
            group.cancel_scope.cancel()

    async def _tell(self) -> None:
        for session in self._sessions:
            await session.send_tool_list_changed()
        await self.bus.publish(ToolsListChanged())


def _for_ext_call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Raises ToolError where they are not those of an action's tool."""
    strange = sorted(arguments.keys() - set(MEMBERS))
    if strange:
        known = ", ".join(MEMBERS)
        raise ToolError(f"{name} takes {known}, not {', '.join(strange)}: what the action takes goes into params")
    if "params" not in arguments:
        raise ToolError(f"{name} lacks params: give it what the action takes, {{}} where that is nothing")
    return arguments


def build(client: Client) -> Server[Any]:
    """The server over the client's mailbox."""
    listing = Listing(client)
    server: Server[Any] = Server(
        "nanoclaw",
        instructions=INSTRUCTIONS,
        lifespan=listing.watching,
        on_list_tools=listing.list,
        on_call_tool=listing.call,
        on_subscriptions_listen=ListenHandler(listing.bus),
    )
    server.add_notification_handler("notifications/initialized", types.NotificationParams, listing.welcome)
    return server


async def serve(server: Server[Any]) -> None:
    """Serves stdin and stdout until stdin ends."""
    options = server.create_initialization_options(NotificationOptions(tools_changed=True))
    async with stdio_server() as (requests, answers):
        await server.run(requests, answers, options)


def main() -> None:
    """Serves until stdin ends."""
    anyio.run(serve, build(Client.from_environment()))


if __name__ == "__main__":
    main()
