"""What a provider and its actions are, for those built in and for those of others alike."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr

from nanoclaw_broker.ledger import Kind
from nanoclaw_broker.policy import Level


class Params(BaseModel):
    """Parameters of an action: unknown members are refused, values are not coerced, error texts show no values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Result:
    """What an action answered. data: a JSON value, for the agent. summary: one line for the ledger, nothing secret."""

    data: Any
    summary: str = ""


class ActionFailed(Exception):
    """The other side answered, and the answer is no: nothing was done, or it says what was.

    code: stable UPPER_SNAKE. The message goes to the agent; it holds no secret. Anything else that `execute` raises
    counts as no reply: UNKNOWN for a mutating action.
    """

    def __init__(self, code: str, message: str, *, next_steps: tuple[str, ...] = (), **facts: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_steps = next_steps
        self.facts: Mapping[str, str] = {name: str(value) for name, value in facts.items()}


class Refused(Exception):
    """Parameters that fit the schema and are not allowed here, such as a host that is not on the list."""

    def __init__(self, code: str, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step


@dataclass(frozen=True, slots=True)
class Environment:
    """What a provider may use of the broker. secret: the value of a secret by name, read when it is needed."""

    home: Path
    http_allow: str = ""
    secret: Callable[[str], SecretStr] = field(default=lambda name: SecretStr(""))


P = TypeVar("P", bound=Params)


class Action(ABC, Generic[P]):
    """One thing that a provider can do."""

    name: ClassVar[str]
    level: ClassVar[Level]
    kind: ClassVar[Kind]
    description: ClassVar[str]
    params: type[P]
    timeout_seconds: ClassVar[float] = 20.0
    """After this it has ended without a reply. Calls from files end within 25 s."""

    @abstractmethod
    async def execute(self, params: P) -> Result:
        """Does it, once. Raises ActionFailed where the other side says no."""

    def summary(self, params: P) -> str:
        """One line about these parameters for the ledger; nothing that could be secret, so nothing by default."""
        return ""

    def check(self, params: P) -> None:
        """What a schema can't say; no I/O. Raises Refused."""
        return

    @cached_property
    def params_schema(self) -> str:
        """JSON Schema of the parameters."""
        return json.dumps(self.params.model_json_schema(), separators=(",", ":"))


@dataclass(frozen=True)
class Provider:
    """A name, what it is, its actions, and the secrets without which it can't work."""

    name: str
    description: str
    actions: tuple[Action[Any], ...]
    required_secrets: tuple[str, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, Action[Any]]:
        """Its actions by name."""
        return {action.name: action for action in self.actions}

    @cached_property
    def levels(self) -> Mapping[str, Level]:
        """What each action needs."""
        return {action.name: action.level for action in self.actions}
