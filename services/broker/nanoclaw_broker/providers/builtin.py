"""The providers that come with the broker."""

from nanoclaw_broker.providers import http, json_transform, llm, logs, sql
from nanoclaw_broker.registry import Factory

BUILTIN: tuple[Factory, ...] = (http.provider, json_transform.provider, llm.provider, logs.provider, sql.provider)
