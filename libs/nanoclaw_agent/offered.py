"""What may be called now, read from the mailbox whenever it is asked for, and watched."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread

from nanoclaw_agent import wire
from nanoclaw_agent.mailbox import Mailbox
from nanoclaw_agent.offer import Offers, Target, offers, read_name
from nanoclaw_agent.params_schema import embed

LOOK_SECONDS = 0.2
"""Between two looks at the snapshot's directory entry, by the one who watches."""

SNAPSHOT = "ext_capabilities"


class Offered:
    """The offers of a mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._path = os.path.join(mailbox.path, f"{SNAPSHOT}.json")
        self._lock = anyio.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._offers = Offers()
        self._known: dict[str, Target] = {}

    async def now(self) -> Offers:
        """By the snapshot as it is, and the clock: what has ended is left out, whether the host says so yet or not."""
        async with self._lock:
            stamp, now = self._look(), wire.timestamp(self._mailbox.now_ns(), 6)
            if stamp != self._stamp or (self._offers.until and self._offers.until <= now):
                self._offers = await anyio.to_thread.run_sync(self._read, now)
                self._stamp = stamp  # taken before: what is written meanwhile is read the next time
                self._known.update(self._offers.known)
            return self._offers

    async def target(self, name: str) -> Target | None:
        """What a tool's name calls, also where it may not be called, or not any more; None for no such name."""
        await self.now()
        return self._known.get(name) or read_name(name)

    async def watch(self, told: Offers, tell: Callable[[], Awaitable[None]]) -> None:
        """Tells, for ever, of each change of what there is to call. told: what is known before."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            found = await self.now()
            if found is not told and found.by_name != told.by_name:
                await tell()
            told = found

    def _look(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size

    def _read(self, now: str) -> Offers:
        snapshot = self._mailbox.snapshot(SNAPSHOT)
        if not _sound(snapshot):
            return Offers()
        found = offers(snapshot, now)
        for offer in found.by_name.values():
            embed(offer.schema)  # checked here, in a thread, and kept
        return found


def _sound(snapshot: dict[str, Any]) -> bool:
    """Whether it can be sent on: half a surrogate pair would break the whole answer."""
    try:
        json.dumps(snapshot, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
