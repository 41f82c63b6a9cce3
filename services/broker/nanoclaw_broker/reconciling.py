"""Clears up calls that ended UNKNOWN: asks the provider, sends again under its key, or undoes; never guesses."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import kept_params, settled_answers, settlements
from nanoclaw_broker.deeds import BROKER
from nanoclaw_broker.kept_params import Seal
from nanoclaw_broker.ledger import UnknownEnd
from nanoclaw_broker.providers import Action, ActionFailed, Effect, Params, Result
from nanoclaw_broker.registry import Registry
from nanoclaw_broker.secrets import Secrets
from nanoclaw_broker.settlement import LONGEST_SECONDS, Outcome, pause_after, repeats_an_effect
from nanoclaw_broker.standing import still_allowed
from nanoclaw_core.clock import Clock, from_text, utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_store import Database, Tx

log = structlog.get_logger()

KEY_SECONDS = 3600.0
"""How long a provider surely still knows our key; later than that nothing is sent again."""
_AT_ONCE = 8
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Unknown:
    """A call in UNKNOWN."""

    call_id: str
    group: str
    provider: str
    action: str
    level: int
    task_id: str
    product_id: str
    created_at: str
    ended_at: str
    ends_by: UnknownEnd
    trace_id: str

    @property
    def effect(self) -> Effect:
        """As the action was told the first time."""
        return Effect(self.call_id, self.group, self.task_id, self.created_at)


class _NotYet(Exception):
    """Nothing can be said for now. The text is for the log."""


class Reconciler:
    """One per broker.

    first_seconds: until a call is first looked for. quiet_seconds: how long after its end a call that the provider does
    not know counts as one that will not happen: whatever was under way has landed by then.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        secrets: Secrets,
        seal: Seal,
        *,
        first_seconds: float,
        quiet_seconds: float,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._registry = registry
        self._secrets = secrets
        self._seal = seal
        self._first_seconds = first_seconds
        self._quiet = timedelta(seconds=quiet_seconds)
        self._clock = clock
        self._monotonic = monotonic
        self._tries: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A call has just ended UNKNOWN."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. What goes wrong with one call, or with the store, is tried again later."""
        while True:
            self._wake.clear()
            try:
                pause = await self.look()
            except NanoclawError as error:
                log.error("unknown_calls_not_read", reason=error.reason)
                pause = self._first_seconds
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def look(self) -> float:
        """Goes through every UNKNOWN call that is due; answers after how many seconds the next one is."""
        rows = await self._database.read_in_thread(_unknown)
        now = self._monotonic()
        for call_id in self._due.keys() - {row.call_id for row in rows}:
            self._forget(call_id)
        clearable = [row for row in rows if row.ends_by is not UnknownEnd.NONE]
        due = [row for row in clearable if self._due.setdefault(row.call_id, self._begin(row, now)) <= now]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(row: Unknown) -> None:
            async with gate:
                await self._clear_up(row)

        await asyncio.gather(*(one(row) for row in due))
        now = self._monotonic()
        return max(0.01, min((at - now for at in self._due.values()), default=LONGEST_SECONDS))

    def _begin(self, row: Unknown, now: float) -> float:
        """Soon; at once where nothing is needed from outside."""
        return now if row.ends_by is UnknownEnd.HARMLESS else now + self._first_seconds

    def _forget(self, call_id: str) -> None:
        self._due.pop(call_id, None)
        self._tries.pop(call_id, None)

    async def _clear_up(self, row: Unknown) -> None:
        try:
            outcome, answer, note = await self._find_out(row)
            await self._database.write(
                lambda tx: settlements.clear_up(tx, row.call_id, outcome, answer, BROKER, note, trace_id=row.trace_id)
            )
        except (_NotYet, NanoclawError) as why:
            tries = self._tries[row.call_id] = self._tries.get(row.call_id, 0) + 1
            pause = pause_after(tries, self._first_seconds)
            self._due[row.call_id] = self._monotonic() + pause
            log.warning("call_still_unknown", call_id=row.call_id, why=str(why), tries=tries, next_in_seconds=pause)
            return
        self._forget(row.call_id)
        log.info("call_cleared_up", call_id=row.call_id, outcome=outcome.value, note=note)

    async def _find_out(self, row: Unknown) -> tuple[Outcome, pb.CallResponse, str]:
        """What became of it. Raises _NotYet."""
        if row.ends_by is UnknownEnd.HARMLESS:
            return self._told(row, Outcome.GIVEN_UP, "to repeat it does no harm, so nobody needs to know")
        action, params = self._as_asked(row)
        if repeats_an_effect(row.ends_by):
            self._check_standing(row)
        try:
            async with asyncio.timeout(action.timeout_seconds):
                match row.ends_by:
                    case UnknownEnd.VERIFY:
                        return self._verified(row, await action.verify(params, row.effect))
                    case UnknownEnd.PROVIDER_KEY:
                        result = await action.execute(params, row.effect)
                        return self._found(row, result, "sent again under its key")
                    case _:
                        result = await action.compensate(params, row.effect)
                        return self._told(row, Outcome.UNDONE, result.summary or "undone")
        except _NotYet:
            raise
        except ActionFailed as error:  # also under its key: the first request may have got another answer
            raise _NotYet(f"the provider answers {error.code}") from None
        except Exception as error:  # whatever it is, it says nothing about the call
            raise _NotYet(type(error).__name__) from None

    def _as_asked(self, row: Unknown) -> tuple[Action[Any], Params]:
        ciphertext = self._database.read(lambda tx: kept_params.read(tx, row.call_id))
        if ciphertext is None:
            raise _NotYet("its parameters are not kept")
        raw = self._seal.open(row.call_id, ciphertext)
        _, action, params = self._registry.find(row.provider, row.action, raw)
        if action is None or params is None:
            raise _NotYet("the provider no longer has the action, or no longer takes these parameters")
        return action, params

    def _check_standing(self, row: Unknown) -> None:
        """Something that changes the world is sent: only while the grant stands and the key lives."""
        if row.ends_by is UnknownEnd.PROVIDER_KEY and self._age(row.created_at) > timedelta(seconds=KEY_SECONDS):
            raise _NotYet("the provider may have forgotten the key: an operator must settle it")
        why = self._database.read(lambda tx: still_allowed(tx, row.group, row.provider, row.product_id, row.level))
        if why:
            raise _NotYet(why)

    def _verified(self, row: Unknown, result: Result | None) -> tuple[Outcome, pb.CallResponse, str]:
        if result is not None:
            return self._found(row, result, "the provider knows it")
        if not self._quiet_enough(row):
            raise _NotYet("the provider does not know it yet")
        return self._told(row, Outcome.DID_NOT_HAPPEN, "the provider does not know it")

    def _quiet_enough(self, row: Unknown) -> bool:
        return self._age(row.ended_at) >= self._quiet

    def _age(self, moment: str) -> timedelta:
        return self._clock() - from_text(moment)

    def _found(self, row: Unknown, result: Result, note: str) -> tuple[Outcome, pb.CallResponse, str]:
        answer = settled_answers.found(row.call_id, result, BROKER.principal, self._secrets)
        return Outcome.HAPPENED, answer, note

    def _told(self, row: Unknown, outcome: Outcome, note: str) -> tuple[Outcome, pb.CallResponse, str]:
        return outcome, settled_answers.settled(row.call_id, outcome, BROKER.principal), self._secrets.scrub(note)[:200]


def _unknown(tx: Tx) -> list[Unknown]:
    """All of them, a page at a time."""
    found: list[Unknown] = []
    while True:
        rows = settlements.unknown(tx, found[-1].call_id if found else "", _PAGE)
        found.extend(
            Unknown(
                call_id=row["call_id"],
                group=row["group_name"],
                provider=row["provider"],
                action=row["action"],
                level=row["level"],
                task_id=row["task_id"],
                product_id=row["product_id"],
                created_at=row["created_at"],
                ended_at=row["updated_at"],
                ends_by=UnknownEnd(row["unknown_ends_by"] or UnknownEnd.NONE),
                trace_id=row["trace_id"],
            )
            for row in rows
        )
        if len(rows) < _PAGE:
            return found
