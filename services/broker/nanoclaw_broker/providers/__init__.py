"""Providers: what agents can reach through the broker, each a small class with its actions."""

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import (
    Action,
    ActionFailed,
    Effect,
    Environment,
    FailureMode,
    NoReply,
    Params,
    Provider,
    Refused,
    Result,
    Section,
)

__all__ = [
    "Action",
    "ActionFailed",
    "Effect",
    "Environment",
    "FailureMode",
    "Kind",
    "Level",
    "NoReply",
    "Params",
    "Provider",
    "Refused",
    "Result",
    "Section",
    "UnknownEnd",
    "excerpt",
]
