"""The providers that come with the broker."""

from nanoclaw_broker.providers import email, github, http, json_transform, llm, logs, mcp, sql
from nanoclaw_broker.registry import Factory

BUILTIN: tuple[Factory, ...] = tuple(
    module.provider for module in (email, github, http, json_transform, llm, logs, mcp, sql)
)
