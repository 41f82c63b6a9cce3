"""The provider `github`: repositories, issues, pull requests and releases of the operator's list."""

from nanoclaw_broker.providers.github.provider import provider

__all__ = ["provider"]
