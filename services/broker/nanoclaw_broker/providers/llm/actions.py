"""What the provider `llm` does: ask a model, and count what asking would send."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeVar

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import (
    Action,
    ActionFailed,
    Effect,
    Environment,
    NoReply,
    Provider,
    Refused,
    Result,
)
from nanoclaw_broker.providers.llm import body
from nanoclaw_broker.providers.llm.api import Api, Request
from nanoclaw_broker.providers.llm.body import CountParams, MessagesParams
from nanoclaw_broker.providers.llm.failures import MODES
from nanoclaw_broker.providers.llm.message import Assembly
from nanoclaw_broker.providers.llm.settings import SECRET, LlmSettings, Model
from nanoclaw_broker.providers.llm.usage import Meter, worst_micros

NAME = "llm"
B = TypeVar("B", bound=CountParams)


def encode(params: CountParams) -> bytes:
    """The request as it is sent: what was asked for and no defaults of ours."""
    given = params.model_dump(mode="json", exclude_unset=True)
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()


class _Asking(Action[B]):
    """What both have in common."""

    level: ClassVar[Level] = Level.L2
    timeout_seconds: ClassVar[float] = 24.0
    failure_modes = MODES

    def __init__(self, api: Api) -> None:
        self.api = api

    def check(self, params: B) -> None:
        """The model is on the list, and nothing in the request has the provider reach further."""
        known = self.api.settings.models
        if params.model not in known:
            raise Refused(
                "MODEL_NOT_ALLOWED",
                "model: is not on the operator's list",
                f"name one of {', '.join(sorted(known))}" if known else "ask an operator to list it under [llm.models]",
            )
        body.check(params)

    def model(self, params: B) -> Model:
        """Its prices."""
        return self.api.settings.models[params.model]


class Messages(_Asking[MessagesParams]):
    """Has a model answer."""

    name: ClassVar[str] = "messages"
    kind: ClassVar[Kind] = Kind.MUTATING
    description: ClassVar[str] = "ask a model, as POST /v1/messages of the messages API does; metered by its tokens"
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.HARMLESS
    params = MessagesParams

    def summary(self, params: MessagesParams) -> str:
        """Model and sizes; what is said is the agent's."""
        return f"{params.model}, {len(params.messages)} messages, at most {params.max_tokens} tokens"

    def cost_micros(self, params: MessagesParams) -> int:
        """By the size of the request, and all tokens that the answer may have."""
        return worst_micros(params, encode(params), self.model(params), self.api.settings.bytes_per_token)

    async def execute(self, params: MessagesParams, effect: Effect) -> Result:
        """The whole message, whichever way it came."""
        meter = self.meter(params)
        if not params.stream:
            message = await self.whole(params, meter, self.timeout_seconds)
        else:
            assembly = Assembly()
            try:
                async with self.events(params, meter, self.timeout_seconds) as events:
                    async for event in events:
                        assembly.event(event)
                message = assembly.message()
            except (LookupError, TypeError, ValueError):
                raise NoReply("the model's API sent events that make no message") from None
        return Result(message, meter.summary, meter.micros)

    def meter(self, params: MessagesParams) -> Meter:
        """One for one answer."""
        return Meter(self.model(params), params.max_tokens)

    async def whole(
        self, params: MessagesParams, meter: Meter, seconds: float, *, betas: str = "", query: str = ""
    ) -> dict[str, Any]:
        """The message, counted by the meter. Raises ActionFailed, NoReply."""
        message = await self.api.whole(Request(f"/v1/messages{query}", encode(params), seconds, betas))
        if not isinstance(message.get("content"), list):
            raise NoReply("the model's API answered what is no message")
        meter.message(message)
        return message

    @asynccontextmanager
    async def events(
        self, params: MessagesParams, meter: Meter, seconds: float, *, betas: str = "", query: str = ""
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The message as events, counted by the meter. Raises ActionFailed with what it has cost so far, NoReply."""
        try:
            async with self.api.events(Request(f"/v1/messages{query}", encode(params), seconds, betas)) as events:
                yield _metered(events, meter)
        except ActionFailed as error:
            error.cost_micros = meter.micros or 0
            raise


async def _metered(events: AsyncIterator[dict[str, Any]], meter: Meter) -> AsyncIterator[dict[str, Any]]:
    async for event in events:
        meter.event(event)
        yield event


class CountTokens(_Asking[CountParams]):
    """Counts what a request would send. It goes out as the request itself would, so it needs the same level."""

    name: ClassVar[str] = "count_tokens"
    kind: ClassVar[Kind] = Kind.READ
    description: ClassVar[str] = "count the tokens that a request to a model would have; costs nothing"
    params = CountParams

    def summary(self, params: CountParams) -> str:
        """Model and sizes."""
        return f"{params.model}, {len(params.messages)} messages"

    async def execute(self, params: CountParams, effect: Effect) -> Result:
        """The API's own count."""
        return await self.count(params, self.timeout_seconds)

    async def count(self, params: CountParams, seconds: float, *, betas: str = "", query: str = "") -> Result:
        """See execute. Raises ActionFailed, NoReply."""
        request = Request(f"/v1/messages/count_tokens{query}", encode(params), seconds, betas)
        counted = await self.api.whole(request)
        return Result(counted, f"{counted.get('input_tokens')} tokens")


def provider(environment: Environment) -> Provider:
    """The provider. Raises INVALID_SETTING for a table [llm] that can't be read."""
    api = Api(environment.section(NAME, LlmSettings), environment.secret)
    return Provider(
        NAME,
        "models behind the messages API, on the operator's list",
        (Messages(api), CountTokens(api)),
        required_secrets=(SECRET,),
        close=api.close,
    )
