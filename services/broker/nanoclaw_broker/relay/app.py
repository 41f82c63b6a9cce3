"""What a relay serves on its attempt's socket: the messages API, each request decided and recorded as a call."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.broker import Broker, Told
from nanoclaw_broker.deeds import BROKER
from nanoclaw_broker.params import MOST_BYTES
from nanoclaw_broker.providers.llm import NAME, Messages
from nanoclaw_broker.relay import refusal
from nanoclaw_broker.relay.answer import Answer, as_response
from nanoclaw_broker.relay.exchange import Cut, Exchange
from nanoclaw_broker.relays import Relay
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.clock import Clock, utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.ids import new_ulid
from nanoclaw_core.principal import Caller
from nanoclaw_telemetry import TraceContext

Observe = Callable[[Caller, pb.CallRequest, Told, TraceContext, int], None]
"""Told of every request that was decided: who, what, what came of it, its trace, when it began (ns)."""


class RelayApp:
    """One attempt's. seconds: how long a request may take."""

    def __init__(
        self,
        relay: Relay,
        broker: Broker,
        secrets: Secrets,
        observe: Observe,
        seconds: float,
        clock: Clock = utc_now,
    ) -> None:
        self._relay = relay
        self._broker = broker
        self._secrets = secrets
        self._observe = observe
        self._seconds = seconds
        self._clock = clock
        self._caller = Caller(f"group:{relay.group}", via=BROKER.principal, attempt=relay.attempt)
        self._under_way: set[Exchange] = set()
        self.asgi = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{model:path}", self._model, methods=["GET"]),
            ],
            exception_handlers={404: _not_here, 405: _not_here},
        )

    def cut_all(self, why: Cut) -> None:
        """Ends what is under way."""
        for exchange in self._under_way:
            exchange.cut(why)

    async def _messages(self, request: Request) -> Response:
        return await self._ask(request, "messages")

    async def _count_tokens(self, request: Request) -> Response:
        return await self._ask(request, "count_tokens")

    async def _ask(self, request: Request, action: str) -> Response:
        body = await _body(request)
        if body is None:
            return as_response(refusal.too_large(MOST_BYTES))
        call = pb.CallRequest(
            request_id=f"relay:{new_ulid()}",
            provider=NAME,
            action=action,
            params_json=body.decode(errors="replace"),
            task_id=self._relay.task_id,
        )
        try:
            asked = self._broker.read(self._caller, call)
        except NanoclawError as error:
            return as_response(refusal.of_error(error))
        exchange = Exchange(
            lambda: self._broker.stands(asked),
            self._secrets,
            self._seconds,
            betas=request.headers.get("anthropic-beta", "")[:2000],
            query="?beta=true" if request.query_params.get("beta") == "true" else "",
        )
        parent = TraceContext.parse(self._relay.traceparent)
        trace, began = parent.child() if parent is not None else TraceContext.new(), time.time_ns()

        async def carried() -> Told:
            try:
                told = await self._broker.carry(asked, self._caller, trace, exchange)
            finally:
                self._under_way.discard(exchange)
            self._observe(self._caller, call, told, trace, began)
            return told

        self._under_way.add(exchange)
        carrying = asyncio.create_task(carried())
        carrying.add_done_callback(_retrieve)
        return Answer(exchange, carrying, self._clock)

    async def _models(self, request: Request) -> Response:
        found = [_as_model(name) for name in self._listed()]
        ends = (
            {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {"first_id": None, "last_id": None}
        )
        return JSONResponse({"data": found, "has_more": False, **ends})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        return JSONResponse(_as_model(name)) if name in self._listed() else _not_here(request, None)

    def _listed(self) -> list[str]:
        provider = self._broker.registry.get(NAME)
        action = provider.by_name["messages"] if provider is not None else None
        return sorted(action.api.settings.models) if isinstance(action, Messages) else []


def _retrieve(task: "asyncio.Task[Told]") -> None:
    if not task.cancelled():
        task.exception()  # for nobody may be waiting any more


async def _body(request: Request) -> bytes | None:
    """None where it is larger than allowed; what was not asked for is then not read."""
    body = bytearray()
    with contextlib.suppress(ClientDisconnect):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return None
    return bytes(body)


def _not_here(request: Request, _: Exception | None) -> Response:
    return as_response(refusal.not_here(f"{request.method} {request.url.path}"))


def _as_model(name: str) -> dict[str, Any]:
    """A model as GET /v1/models shows it. When it was made is not known here."""
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
