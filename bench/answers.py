"""News of answers in many mailboxes: one inotify, read on the event loop, so that agents of the bench poll nothing."""

import asyncio
from pathlib import Path

from asyncinotify import Inotify, Mask, Watch


class Answers:
    """Response files as they appear. Open it in the loop that waits."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._watches: dict[Path, Watch] = {}
        self._waiting: dict[tuple[Watch, str], asyncio.Future[None]] = {}
        self._reading = asyncio.create_task(self._read())

    def expect(self, responses: Path, name: str) -> "asyncio.Future[None]":
        """Done once the file has appeared; ask before it can."""
        watch = self._watches.get(responses)
        if watch is None:
            watch = self._watches[responses] = self._inotify.add_watch(responses, Mask.MOVED_TO)
        seen = self._waiting[watch, name] = asyncio.get_running_loop().create_future()
        return seen

    def forget(self, responses: Path) -> None:
        """Nothing is expected there any more."""
        watch = self._watches.pop(responses, None)
        if watch is not None:
            self._inotify.rm_watch(watch)

    async def close(self) -> None:
        """Ends it."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._inotify.close()

    async def _read(self) -> None:
        async for event in self._inotify:
            if event.watch is not None and event.name is not None:
                seen = self._waiting.pop((event.watch, str(event.name)), None)
                if seen is not None and not seen.done():
                    seen.set_result(None)
