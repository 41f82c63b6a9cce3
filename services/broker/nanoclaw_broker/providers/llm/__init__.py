"""The provider `llm`: models behind the messages API; an operator's list of them, metered from what the API says."""

from nanoclaw_broker.providers.llm.actions import NAME, CountTokens, Messages, provider

__all__ = ["NAME", "CountTokens", "Messages", "provider"]
