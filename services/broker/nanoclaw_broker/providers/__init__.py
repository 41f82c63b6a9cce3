"""Providers: what agents can reach through the broker, each a small class with its actions."""

from nanoclaw_broker.ledger import Kind
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import Action, ActionFailed, Environment, Params, Provider, Refused, Result

__all__ = ["Action", "ActionFailed", "Environment", "Kind", "Level", "Params", "Provider", "Refused", "Result"]
