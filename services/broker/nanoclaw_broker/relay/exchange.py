"""One request of a relay under way: passed on as its answer comes, cut off when it is not allowed any more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import structlog

from nanoclaw_broker.decision import Decision, Outcome
from nanoclaw_broker.execution import Claimed
from nanoclaw_broker.providers import ActionFailed, Result
from nanoclaw_broker.providers.llm import CountTokens, Messages
from nanoclaw_broker.providers.llm.body import CountParams, MessagesParams
from nanoclaw_broker.providers.llm.usage import Meter
from nanoclaw_broker.relay.refusal import as_event
from nanoclaw_broker.relay.scrubbing import StreamScrubber
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.errors import NanoclawError

log = structlog.get_logger()

RECHECK_SECONDS = 0.5
"""How long a breach may go unnoticed within a stream."""
_EVENTS_AHEAD = 64
"""An agent that reads slowly is waited for."""


class Cut(NamedTuple):
    """Why an exchange shall end now. code: stable."""

    code: str
    message: str
    next_step: str = ""


CLIENT_GONE = Cut("CLIENT_GONE", "the agent went away before the answer had ended")
RELAY_CLOSED = Cut("RELAY_CLOSED", "the attempt has ended")
STOPPING = Cut("BROKER_STOPPING", "the broker stops", "send it again")


class Exchange:
    """See execution.Exchange. stands: whether it would still be allowed. betas, query: of the agent's request."""

    def __init__(
        self,
        stands: Callable[[], Awaitable[Decision]],
        secrets: Secrets,
        seconds: float,
        *,
        betas: str = "",
        query: str = "",
    ) -> None:
        self._stands = stands
        self._secrets = secrets
        self.seconds = seconds
        self._passed_on = {"betas": betas, "query": query}
        self._send, self._receive = anyio.create_memory_object_stream[bytes](_EVENTS_AHEAD)
        self._cut: asyncio.Future[Cut] = asyncio.get_running_loop().create_future()
        self.streams = asyncio.Event()
        """The first event has come, so the answer is a stream."""
        self.answer: dict[str, Any] = {}
        """Of one that is whole: set when it was executed."""
        self.call_id = ""
        self._meter: Meter | None = None

    def cut(self, why: Cut) -> None:
        """Ends it now; the first reason counts, and one that has ended stays as it is."""
        if not self._cut.done():
            self._cut.set_result(why)

    def close(self) -> None:
        """Nobody reads on."""
        self.cut(CLIENT_GONE)
        self._receive.close()
        self._send.close()

    async def events(self) -> AsyncIterator[bytes]:
        """The events to pass on, as they come; it ends with the exchange."""
        async for event in self._receive:
            yield event

    async def run(self, claimed: Claimed) -> Result:
        """Raises ActionFailed, also for a cut, with what it has cost until then; NoReply."""
        self.call_id = claimed.call_id
        working = asyncio.create_task(self._work(claimed))
        guarding = asyncio.create_task(self._guard())
        try:
            await asyncio.wait({working, guarding}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and (working.exception() is None or not self._cut.done()):
                return working.result()
            raise self._failure(guarding.result() if guarding.done() else self._cut.result())
        finally:
            for task in (working, guarding):
                task.cancel()
            await asyncio.gather(working, guarding, return_exceptions=True)
            self._send.close()

    async def _guard(self) -> Cut:
        while True:
            try:
                async with asyncio.timeout(RECHECK_SECONDS):
                    return await asyncio.shield(self._cut)
            except TimeoutError:
                pass
            try:
                decision = await self._stands()
            except NanoclawError as error:  # what can't be asked now is asked again; it was allowed when it began
                log.warning("relay_not_rechecked", call_id=self.call_id, reason=error.reason)
                continue
            if decision.outcome is Outcome.DENY:
                return Cut(decision.code, f"cut off: {decision.message}")

    def _failure(self, why: Cut) -> ActionFailed:
        log.warning("relay_cut_off", call_id=self.call_id, reason=why.code)
        failure = ActionFailed(why.code, why.message, next_steps=(why.next_step,) if why.next_step else ())
        failure.cost_micros = (self._meter.micros or 0) if self._meter is not None else 0
        return failure

    async def _work(self, claimed: Claimed) -> Result:
        match claimed.action, claimed.params:
            case Messages() as action, MessagesParams() as params:
                self._meter = meter = action.meter(params)
                if params.stream:
                    await self._stream(action, params, meter)
                else:
                    message = await action.whole(params, meter, self.seconds, **self._passed_on)
                    self.answer = self._secrets.scrub_value(message)
                told = {"model": params.model, "usage": meter.usage, "stop_reason": meter.stop_reason}
                return Result(told, meter.summary, meter.micros)
            case CountTokens() as action, CountParams() as params:
                result = await action.count(params, self.seconds, **self._passed_on)
                self.answer = self._secrets.scrub_value(result.data)
                return result
        raise AssertionError(f"a relay does not carry {claimed.action.name}")

    async def _stream(self, action: Messages, params: MessagesParams, meter: Meter) -> None:
        scrubber, most = StreamScrubber(self._secrets), action.cost_micros(params)
        async with action.events(params, meter, self.seconds, **self._passed_on) as events:
            async for event in events:
                for shown in scrubber.event(event):
                    self.streams.set()
                    await self._send.send(as_event(shown))
                if (meter.micros or 0) > most:
                    raise ActionFailed(
                        "BUDGET_EXCEEDED",
                        "cut off: it costs more than was set aside for it",
                        next_steps=("ask for less, with a smaller max_tokens, or have an operator raise the budget",),
                    )
