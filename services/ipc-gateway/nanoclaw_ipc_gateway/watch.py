"""News of one mailbox: inotify on its tasks and messages, read on the event loop; no work while nothing happens."""

import asyncio
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from asyncinotify import Inotify, Mask

from nanoclaw_ipc_gateway.mailbox import Mailbox

log = structlog.get_logger()

_MASK = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.ONLYDIR
_OVERFLOW, _DIRECTORY = int(Mask.Q_OVERFLOW), int(Mask.ISDIR)
_EVENT = struct.Struct("iIII")
_AT_ONCE = 16 * 1024
"""Bytes of events read in one turn of the loop: some hundreds."""

BURST = 1000
"""Events in a row after which the others get their turn; what the kernel can't keep meanwhile, a look finds."""

PAUSE = 0.05


class Watch:
    """Tells of files that appear in a mailbox. Each has an inotify of its own: a flood in one is not in others' way."""

    def __init__(self, mailbox: Mailbox, seen: Callable[[str, str], None], lost: Callable[[], object]) -> None:
        """seen: a source (tasks, messages) and the name of a file that was renamed in, or written and closed.
        lost: events were dropped, so only looking tells.
        """
        self._mailbox = mailbox
        self._seen = seen
        self._lost = lost
        self._sources: dict[int, str] = {}
        self._inotify: Inotify | None = None
        self._again: asyncio.TimerHandle | None = None
        self._burst = 0
        self._since = 0.0

    def start(self) -> None:
        """Begins to watch; what appears from now on is told. Where the kernel has no watch left, the sweep serves."""
        self.stop()
        try:
            self._inotify = inotify = Inotify()
            for source in ("tasks", "messages"):
                # By descriptor: nothing that was put in the path's place meanwhile.
                path = Path(f"/proc/self/fd/{self._mailbox.folder(source)}")
                self._sources[inotify.add_watch(path, _MASK).wd] = source
        except OSError as error:
            log.error("mailbox not watched, only swept", mailbox=self._mailbox.origin.number, error=str(error))
            self.stop()
            return
        # The library's own reading adds and removes the reader for each batch, and makes a path of every name.
        asyncio.get_running_loop().add_reader(inotify.fd, self._readable)

    def stop(self) -> None:
        """Ends it."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._inotify is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._inotify.fd)
            # The kernel waits there until nobody looks at the watches any more: milliseconds, with the loop held up.
            loop.run_in_executor(None, self._inotify.close)
            self._inotify = None
        self._sources.clear()

    def _readable(self) -> None:
        assert self._inotify is not None
        try:
            data = os.read(self._inotify.fd, _AT_ONCE)
        except OSError:  # another turn has read them, or the instance is gone
            return
        for watch, mask, name in events(data):
            self._burst += 1
            self.on(watch, mask, name)
        if self._burst >= BURST:
            self._rest()

    def _rest(self) -> None:
        """Where so many events came in so short a time, leaves the rest to the kernel for a moment."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._since < PAUSE and self._inotify is not None:
            loop.remove_reader(self._inotify.fd)
            self._again = loop.call_later(PAUSE, loop.add_reader, self._inotify.fd, self._readable)
        self._burst, self._since = 0, now

    def on(self, watch: int, mask: int, name: bytes) -> None:
        """One event."""
        if mask & _OVERFLOW:
            self._lost()
        elif name.endswith(b".json") and not mask & _DIRECTORY:
            source = self._sources.get(watch)
            if source is not None:
                self._seen(source, os.fsdecode(name))


def events(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Watch descriptor, mask and name of each event in what inotify gave (inotify(7))."""
    position = 0
    while position < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, position)
        position += _EVENT.size + length
        yield watch, mask, data[position - length : position].rstrip(b"\0")
