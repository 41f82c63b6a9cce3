"""The provider `mcp`: tools of the operator's MCP servers as actions, at the levels that the operator gives them."""

from nanoclaw_broker.providers.mcp.actions import provider

__all__ = ["provider"]
