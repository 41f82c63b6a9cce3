"""What a provider and its actions are, for those built in and for those of others alike."""

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_core.errors import Kind as ErrorKind
from nanoclaw_core.errors import NanoclawError


class Params(BaseModel):
    """Parameters of an action: unknown members are refused, values are not coerced, error texts show no values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True)


@dataclass(frozen=True, slots=True)
class Effect:
    """The call on whose behalf an action runs; the same when the call is looked for or sent again after a crash.

    key: unique for the call, not secret: what a provider deduplicates by, and what a marker in what is created carries.
    created_at: TEXT, when it was asked for: nothing of it can be older.
    """

    key: str
    group: str
    task_id: str = ""
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What an action answered. data: a JSON value, for the agent. summary: one line for the ledger, nothing secret.

    cost_micros: what it really cost, in micros of a dollar; None: what `Action.cost_micros` said.
    """

    data: Any
    summary: str = ""
    cost_micros: int | None = None


@dataclass(frozen=True, slots=True)
class FailureMode:
    """One way in which an action is known to fail. code: as in ActionFailed, or NO_REPLY. probability: of a call."""

    code: str
    category: str
    probability: float


class ActionFailed(Exception):
    """The other side answered, and the answer is no: nothing was done, or it says what was.

    code: stable UPPER_SNAKE. The message goes to the agent; it holds no secret. in_trouble: the other side can't serve
    anybody, which counts for the circuit breaker. cost_micros: what it cost all the same. Anything else that `execute`
    raises counts as no reply: UNKNOWN for a mutating action.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        next_steps: tuple[str, ...] = (),
        in_trouble: bool = False,
        cost_micros: int = 0,
        **facts: object,
    ) -> None:
        super().__init__(message)
        self.in_trouble = in_trouble
        self.cost_micros = cost_micros
        self.code = code
        self.message = message
        self.next_steps = next_steps
        self.facts: Mapping[str, str] = {name: str(value) for name, value in facts.items()}


class NoReply(Exception):
    """It was sent, and no reply could be read. Its text goes to the agent; it holds no secret."""


class Refused(Exception):
    """Parameters that fit the schema and are not allowed here, such as a host that is not on the list.

    passing: what stands in the way may be gone in an hour, so a call that waits for votes goes on waiting.
    """

    def __init__(self, code: str, message: str, next_step: str = "", *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        self.code = code
        self.message = message
        self.next_step = next_step


class Section(BaseModel):
    """A provider's section of `config/providers.toml`: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True)


S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Environment:
    """What a provider may use of the broker.

    secret: the value of a secret by name, read when it is needed, so that a reload is in force at once. config: the
    tables of `config/providers.toml` by name. changed: to be called when an action's description or schema is another
    one than before, so that agents are told; on the event loop. scrub: a JSON value without the broker's secrets, for
    what another side writes into descriptions and schemas; answers and errors are scrubbed anyway.
    """

    home: Path
    http_allow: str = ""
    secret: Callable[[str], SecretStr] = field(default=lambda name: SecretStr(""))
    config: Mapping[str, Any] = field(default_factory=dict)
    changed: Callable[[], None] = field(default=lambda: None)
    scrub: Callable[[Any], Any] = field(default=lambda value: value)

    def section(self, name: str, model: type[S]) -> S:
        """The table `[name]`, empty where there is none. Raises INVALID_SETTING, naming every field that is wrong."""
        try:
            return model.model_validate(self.config.get(name, {}))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            wrong = "; ".join(".".join((name, *map(str, one["loc"]))) + ": " + one["msg"] for one in found)
            raise NanoclawError(
                ErrorKind.INVALID, "INVALID_SETTING", f"config/providers.toml: {wrong}", next_step="mend the file"
            ) from None


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
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.NONE
    """Of a mutating action: how an end without a reply is cleared up."""
    unverified_level: ClassVar[Level | None] = None
    """The level under a grant that says allow_unverified; None: no other."""
    failure_modes: ClassVar[tuple[FailureMode, ...]] = ()

    @abstractmethod
    async def execute(self, params: P, effect: Effect) -> Result:
        """Does it, once. Raises ActionFailed where the other side says no.

        With PROVIDER_KEY it is called again for the same effect, and the provider sees to it that it happens once.
        """

    async def verify(self, params: P, effect: Effect) -> Result | None:
        """Of VERIFY: the result if the other side knows the effect, None if it surely has not happened nor will.

        Raises anything where that can't be told; it is asked again later.
        """
        raise NotImplementedError

    async def compensate(self, params: P, effect: Effect) -> Result:
        """Of COMPENSATE: sees to it that the effect is undone, whether it had happened or not.

        Raises anything where that can't be told; it is asked again later.
        """
        raise NotImplementedError

    def level_of(self, params: P) -> Level:
        """What these very parameters need; at least `least_level`, at most `level`."""
        return self.level

    @property
    def least_level(self) -> Level:
        """What the parameters that need least need: a group that holds it may call the action, with some of them."""
        return self.level

    def unknown_end_of(self, params: P) -> UnknownEnd:
        """How an unknown end with these very parameters is cleared up."""
        return self.unknown_ends_by

    def circuit(self, params: P) -> str:
        """What these parameters reach, where its troubles are not those of the whole provider, such as a host."""
        return ""

    def cost_micros(self, params: P) -> int:
        """What it costs at the most, in micros of a dollar; it is reserved before and settled after."""
        return 0

    def summary(self, params: P) -> str:
        """One line about these parameters for the ledger; nothing that could be secret, so nothing by default."""
        return ""

    def render(self, params: P) -> str:
        """What would happen, whole and in plain words, for who votes on it; secrets are scrubbed from it."""
        return json.dumps(params.model_dump(mode="json"), indent=2, ensure_ascii=False)

    def check(self, params: P) -> None:
        """What a schema can't say; no I/O. Raises Refused."""
        return

    @cached_property
    def params_schema(self) -> str:
        """JSON Schema of the parameters."""
        return json.dumps(self.params.model_json_schema(), separators=(",", ":"))


@dataclass(frozen=True)
class Provider:
    """A name, what it is, its actions, and the secrets without which it can't work.

    secrets_in_part: without one of these some of its calls are refused. optional_secrets: used where they are there.
    start: makes it ready, before anything is served; what it raises stops the start. close: lets go of what it holds.
    """

    name: str
    description: str
    actions: tuple[Action[Any], ...]
    required_secrets: tuple[str, ...] = ()
    secrets_in_part: tuple[str, ...] = ()
    optional_secrets: tuple[str, ...] = ()
    start: Callable[[], Awaitable[None]] | None = None
    close: Callable[[], Awaitable[None]] | None = None

    @cached_property
    def by_name(self) -> Mapping[str, Action[Any]]:
        """Its actions by name."""
        return {action.name: action for action in self.actions}

    @cached_property
    def levels(self) -> Mapping[str, Level]:
        """What each action needs."""
        return {action.name: action.level for action in self.actions}

    @cached_property
    def unverified(self) -> Mapping[str, Level]:
        """What actions need under a grant with allow_unverified, of those for which that makes a difference."""
        return {action.name: action.unverified_level for action in self.actions if action.unverified_level is not None}
