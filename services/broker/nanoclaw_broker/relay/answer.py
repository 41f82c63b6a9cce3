"""How an exchange is answered: as a stream once its first event is there, else whole, or by a refusal."""

import asyncio

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.broker import Told
from nanoclaw_broker.relay import refusal
from nanoclaw_broker.relay.exchange import Exchange
from nanoclaw_broker.relay.refusal import Refusal
from nanoclaw_core.clock import Clock
from nanoclaw_core.errors import NanoclawError


class Answer(Response):
    """What comes of an exchange: a stream as soon as its first event is there, else a whole answer, or a refusal.

    Who goes away ends it.
    """

    def __init__(self, exchange: Exchange, carrying: "asyncio.Task[Told]", clock: Clock) -> None:
        super().__init__()
        self._exchange = exchange
        self._carrying = carrying
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        streams = asyncio.create_task(self._exchange.streams.wait())
        leaving = asyncio.create_task(self._until_left(receive))
        try:
            await asyncio.wait({self._carrying, streams, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if self._exchange.streams.is_set():
                await self._pass_on(send)
            elif self._carrying.done():
                await (await self._whole())(scope, receive, send)
        except OSError:  # they went away while it was written
            pass
        finally:
            self._exchange.close()
            for task in (streams, leaving):
                task.cancel()
            await asyncio.gather(streams, leaving, return_exceptions=True)

    async def _pass_on(self, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream",
            "cache-control": "no-cache",
            "request-id": self._exchange.call_id,
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for event in self._exchange.events():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        refused = await self._refusal()
        await send({"type": "http.response.body", "body": refused.event if refused is not None else b""})

    async def _whole(self) -> Response:
        refused = await self._refusal()
        if refused is not None:
            return as_response(refused)
        return JSONResponse(self._exchange.answer, headers={"request-id": self._exchange.call_id})

    async def _refusal(self) -> Refusal | None:
        """None where it was executed."""
        try:
            response = (await asyncio.shield(self._carrying)).response
        except NanoclawError as error:
            return refusal.of_error(error)
        if response.status == pb.CALL_STATUS_EXECUTED:
            return None
        return refusal.of_response(response, self._clock())

    async def _until_left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._exchange.close()


def as_response(why: Refusal) -> Response:
    """A refusal before any stream."""
    return JSONResponse(why.body, why.status, headers=why.headers)
