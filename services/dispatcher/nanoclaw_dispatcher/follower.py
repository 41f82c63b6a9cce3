"""Follows governance's log from the place last kept; reconnects by itself, and says when it has to read all anew."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import structlog

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import NanoclawError
from nanoclaw_dispatcher.governance import Governance
from nanoclaw_dispatcher.notes import Place

log = structlog.get_logger()

SILENCE_SECONDS = 25.0
"""Without even a heartbeat for so long, the stream is taken for dead."""


class Follower:
    """One reader of the log. note: told of every fact, and of its task. anew: told that facts may have been missed."""

    def __init__(
        self,
        governance: Governance,
        place: Place | None,
        note: Callable[[pb.Activity, pb.Task | None], None],
        anew: Callable[[], None],
    ) -> None:
        self._governance = governance
        self._note = note
        self._anew = anew
        self.place = place
        self.watching = False

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = 0.05
        while True:
            try:
                async for _ in self._stream():
                    pause = 0.05
            except NanoclawError as error:
                if error.reason == "CURSOR_INVALID":
                    log.warning("log_place_invalid", place=self.place, message=error.message)
                    self.place = None
                    continue
                log.warning("log_stream_ended", reason=error.reason, again_in_seconds=round(pause, 2))
            except TimeoutError:
                log.warning("log_stream_silent", seconds=SILENCE_SECONDS)
            finally:
                self.watching = False
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
            pause = min(pause * 2, 2.0)

    async def _stream(self) -> AsyncIterator[None]:
        stream = aiter(self._governance.watch(self.place))
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await anext(stream)
            except StopAsyncIteration:
                return
            self.watching = True
            if message.HasField("activity"):
                self._note(message.activity, message.task if message.HasField("task") else None)
            if self.place is None:  # everything before here has to be read another way
                self._anew()
            self.place = Place(message.cursor.epoch, message.cursor.seq)
            yield
