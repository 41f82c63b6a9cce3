"""The provider `email`: messages by the operator's mail server, to recipients that the operator lists."""

from nanoclaw_broker.providers.email.actions import provider

__all__ = ["provider"]
