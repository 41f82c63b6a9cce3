"""A stdio MCP server over the same files, so that any MCP-speaking agent works unchanged in a container.

Started as `python -m nanoclaw_agent.mcp_server`.
"""

from mcp.server.mcpserver import MCPServer

from nanoclaw_agent.client import Client
from nanoclaw_agent.mcp_tools import Tools

INSTRUCTIONS = (
    "You run in a governed container without a network. These tools are your only way out: gov_* move tasks through the"
    " gated state machine, ext_call reaches the outside world through a broker. Every answer is data: where status is"
    " not executed, code says why and next_steps what would make it pass."
)


def build(client: Client) -> MCPServer:
    """The server, with every tool over the client's mailbox."""
    server = MCPServer("nanoclaw", instructions=INSTRUCTIONS, log_level="WARNING")
    for tool in Tools(client).all():
        server.add_tool(tool)
    return server


def main() -> None:
    """Serves until stdin ends."""
    build(Client.from_environment()).run("stdio")


if __name__ == "__main__":
    main()
