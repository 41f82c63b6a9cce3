"""News of one mailbox: inotify on its tasks and messages, read on the event loop; no work while nothing happens."""

import asyncio
import contextvars
import os
from collections.abc import Callable
from pathlib import Path

import structlog
from asyncinotify import Event, Inotify, Mask
from asyncinotify import Watch as Wd

from nanoclaw_ipc_gateway.mailbox import Mailbox

log = structlog.get_logger()

_MASK = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.ONLYDIR
BURST = 1000
"""After so many events in a row the others get their turn; what the kernel can't keep meanwhile, a scan finds."""

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
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch; what appears from now on is told. Where the kernel has no watch left, the sweep serves."""
        self.stop()
        try:
            self._inotify = inotify = Inotify(cache_size=10)
            for source in ("tasks", "messages"):
                # By descriptor: nothing that was put in the path's place meanwhile.
                path = Path(f"/proc/self/fd/{self._mailbox.folder(source)}")
                watch: Wd = inotify.add_watch(path, _MASK)
                self._sources[watch.wd] = source
        except OSError as error:
            log.error("mailbox not watched, only swept", mailbox=self._mailbox.origin.number, error=str(error))
            self.stop()
            return
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(inotify), context=contextvars.Context())

    def stop(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._sources.clear()

    async def _run(self, inotify: Inotify) -> None:
        in_a_row = 0
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            event = await inotify.get()
            in_a_row += 1
            if in_a_row >= BURST:
                if loop.time() - since < PAUSE:
                    await asyncio.sleep(PAUSE)
                in_a_row, since = 0, loop.time()
            self._on(event)

    def _on(self, event: Event) -> None:
        mask = event.mask
        if mask & Mask.Q_OVERFLOW:
            self._lost()
            return
        name, watch = event.name, event.watch
        if name is None or watch is None or mask & Mask.ISDIR:
            return
        text = os.fspath(name)
        source = self._sources.get(watch.wd)
        if source is not None and text.endswith(".json"):
            self._seen(source, text)
