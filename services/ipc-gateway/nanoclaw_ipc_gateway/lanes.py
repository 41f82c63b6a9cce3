"""Turns: what shares a key goes one after the other in the order of asking, all else side by side."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager


class Lanes:
    """The last in line for each key. Memory is kept only for keys in use."""

    def __init__(self) -> None:
        self._last: dict[Hashable, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def turn(self, keys: Iterable[Hashable]) -> AsyncIterator[None]:
        """Waits until everybody who asked earlier for one of the keys is through.

        Asking takes a place for all keys at once, so two that want the same keys never wait for each other.
        """
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wanted = list(keys)
        before = {id(last): last for key in wanted if (last := self._last.get(key)) is not None}
        for key in wanted:
            self._last[key] = mine
        mine.add_done_callback(lambda _: self._forget(wanted, mine))
        try:
            for last in before.values():
                await asyncio.shield(last)
            yield
        finally:
            _after(before.values(), mine)

    def _forget(self, keys: Iterable[Hashable], mine: asyncio.Future[None]) -> None:
        for key in keys:
            if self._last.get(key) is mine:
                del self._last[key]


def _after(before: Iterable[asyncio.Future[None]], mine: asyncio.Future[None]) -> None:
    """Ends a turn; one given up while it still waited ends only after those before it."""
    pending = {id(last) for last in before if not last.done()}
    if not pending:
        mine.set_result(None)
        return

    def passed(last: asyncio.Future[None]) -> None:
        pending.discard(id(last))
        if not pending and not mine.done():
            mine.set_result(None)

    for last in before:
        if not last.done():
            last.add_done_callback(passed)
