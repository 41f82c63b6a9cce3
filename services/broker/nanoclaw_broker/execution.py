"""Carrying out a claimed call: sent, executed, settled; whatever happens to who asked for it."""

import asyncio
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception, wait_exponential

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import answers, calls
from nanoclaw_broker.calls import End, Stake
from nanoclaw_broker.ledger import Kind, State, first_state, state_without_reply
from nanoclaw_broker.providers import Action, ActionFailed, Effect, NoReply, Params, Result
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.errors import Kind as ErrorKind
from nanoclaw_core.errors import NanoclawError
from nanoclaw_store import Database, Tx

T = TypeVar("T")
log = structlog.get_logger()

_MOST_MICROS = 10**12
"""Of one call; whoever charges more is not believed, and what was spent can still be added up."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call that is in the ledger and may be carried out.

    notes: what to tell besides, such as a soft quota. kept: whether its parameters are kept.
    """

    effect: Effect
    action: Action[Any]
    params: Params
    notes: dict[str, str]
    trace_id: str
    stake: Stake
    kept: bool = False

    @property
    def call_id(self) -> str:
        """Which one; it is also the effect's key."""
        return self.effect.key


class Exchange(Protocol):
    """What carries a claimed call out in place of its action's `execute`, such as one that streams.

    seconds: how long it may take.
    """

    seconds: float

    async def run(self, claimed: Claimed) -> Result:
        """Does it, once; see Action.execute."""
        ...


class Executor:
    """Carries out claimed calls. most_seconds: how long one may take, whatever its action says."""

    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        most_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._most_seconds = most_seconds
        self._monotonic = monotonic

    async def carry_out(self, claimed: Claimed, exchange: Exchange | None = None) -> pb.CallResponse:
        """Executes it once, by the exchange if there is one, and answers when its end is durable."""
        kind, state = claimed.action.kind, first_state(claimed.action.kind)
        began = self._monotonic()
        if state is State.PREPARED:
            try:
                await self._database.write(lambda tx: calls.mark_sent(tx, claimed.call_id, claimed.trace_id))
            except NanoclawError:  # it is not SENT, so nothing may leave
                return await self._settle(claimed, State.PREPARED, answers.never_sent(claimed.call_id), began)
        return await self._settle(claimed, State.SENT, await self._perform(claimed, kind, exchange), began)

    async def _perform(self, claimed: Claimed, kind: Kind, exchange: Exchange | None) -> answers.Ended:
        action, call_id, notes = claimed.action, claimed.call_id, claimed.notes
        why = "the action broke off"
        in_trouble: bool | None = True
        try:
            if exchange is not None:
                async with asyncio.timeout(exchange.seconds):
                    result = await exchange.run(claimed)
            else:
                async with asyncio.timeout(min(action.timeout_seconds, self._most_seconds)):
                    result = await action.execute(claimed.params, claimed.effect)
            return answers.executed(call_id, kind, result, notes, self._secrets)
        except ActionFailed as error:
            return answers.refused_by_provider(call_id, error, notes, self._secrets)
        except NoReply as error:
            why = self._secrets.scrub(str(error))
        except TimeoutError:
            why = "no reply in time"
        except asyncio.CancelledError:
            why, in_trouble = "the broker stopped while it was under way", None
        except Exception as error:
            error_id = _log_defect(call_id, action, error)
            if kind is not Kind.MUTATING:
                message = f"the action failed, under error {error_id}"
                return answers.failed(call_id, "PROVIDER_ERROR", message, ("report the error's id",), notes)
        return answers.without_reply(call_id, state_without_reply(kind), why, notes, in_trouble=in_trouble)

    async def _settle(self, claimed: Claimed, was: State, ended: answers.Ended, began: float) -> pb.CallResponse:
        took = int((self._monotonic() - began) * 1000)
        end, stake = as_end(ended, claimed.stake, took), claimed.stake
        await self._until_stored(
            lambda tx: calls.settle(tx, claimed.call_id, was, end, stake, claimed.trace_id, kept=claimed.kept)
        )
        return ended.response

    async def _until_stored(self, unit: Callable[[Tx], T]) -> T:
        """What has happened must get into the ledger, so a full disk or a locked file is waited out."""
        try:
            return await self._database.write(unit)
        except NanoclawError as error:
            if not _may_pass(error):
                raise
            log.error("ledger_not_written", reason=error.reason)
        return await _RETRYING(self._write, unit)

    async def _write(self, unit: Callable[[Tx], T]) -> T:
        return await self._database.write(unit)


def as_end(ended: answers.Ended, stake: Stake, duration_ms: int = 0) -> End:
    """An end as the ledger keeps it; where nobody knows what it cost, it cost what was reserved."""
    return End(
        state=ended.state,
        code=ended.response.code,
        reason=ended.reason,
        result_summary=ended.response.summary,
        answer=ended.response.SerializeToString(),
        duration_ms=duration_ms,
        cost_micros=stake.reserved_micros if ended.cost_micros is None else min(ended.cost_micros, _MOST_MICROS),
        in_trouble=ended.in_trouble,
    )


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, NanoclawError):
        return False
    return error.kind is ErrorKind.UNAVAILABLE and error.reason != "STORE_CLOSED"


_RETRYING = AsyncRetrying(
    wait=wait_exponential(multiplier=0.05, max=2.0), retry=retry_if_exception(_may_pass), reraise=True
)


def _log_defect(call_id: str, action: Action[Any], error: Exception) -> str:
    """Says where it broke, not with which values: its text may hold parameters or secrets."""
    error_id = uuid.uuid4().hex
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    log.error(
        "action_broke_off",
        call_id=call_id,
        action=action.name,
        error_id=error_id,
        error=type(error).__name__,
        at=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    )
    return error_id
