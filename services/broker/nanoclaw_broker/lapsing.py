"""Ends the calls that waited for votes in vain, at their moment, without anybody looking at them."""

import asyncio

import structlog

from nanoclaw_broker import pendings
from nanoclaw_core.clock import Clock, from_text, utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_store import Database, Tx

log = structlog.get_logger()

LONGEST_SECONDS = 30.0
"""Between two looks: what moved a grant or the policy tells nobody here."""


class Lapsing:
    """One per broker."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock
        self._opened = asyncio.Event()

    def wake(self) -> None:
        """A call has just begun to wait."""
        self._opened.set()

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            self._opened.clear()
            try:
                lapsed, next_end = await self._database.write(_sweep)
            except NanoclawError as error:
                log.error("pending_calls_not_swept", reason=error.reason)
                lapsed, next_end = 0, ""
            if lapsed:
                log.info("pending_calls_lapsed", count=lapsed)
            try:
                async with asyncio.timeout(self._seconds_until(next_end)):
                    await self._opened.wait()
            except TimeoutError:
                continue

    def _seconds_until(self, moment: str) -> float:
        if not moment:
            return LONGEST_SECONDS
        return min(LONGEST_SECONDS, max(0.05, (from_text(moment) - self._clock()).total_seconds()))


def _sweep(tx: Tx) -> tuple[int, str]:
    return pendings.lapse(tx), pendings.next_end(tx)
