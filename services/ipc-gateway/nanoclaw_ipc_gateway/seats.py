"""Bounded places: what may go on at once for one mailbox, so that slow or half-written files hold up no others."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CALLS = 32
"""ext_calls of one mailbox under way; the broker refuses far fewer."""

SETTLES = 32
"""Half-written files of one mailbox that are waited for."""


class Seats:
    """A bounded number of seats; who finds none free is told so, and does not wait."""

    def __init__(self, number: int) -> None:
        self._free = number

    @contextmanager
    def one(self) -> Iterator[bool]:
        """Whether there was a seat; it is held inside the block."""
        taken = self._free > 0
        self._free -= taken
        try:
            yield taken
        finally:
            self._free += taken


class Room:
    """What the files of one mailbox share."""

    def __init__(self) -> None:
        self.large = asyncio.Lock()
        self.calls = Seats(CALLS)
        self.settles = Seats(SETTLES)


class Worker:
    """One file's hold on its mailbox's workers, to be given up before a long wait."""

    def __init__(self, room: Room, release: Callable[[], None]) -> None:
        self._room = room
        self._release: Callable[[], None] | None = release

    def free(self) -> None:
        """Lets the next file begin; a second time does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()

    @property
    def large(self) -> asyncio.Lock:
        """Held while a large file is parsed."""
        return self._room.large

    @contextmanager
    def calling(self) -> Iterator[bool]:
        """For an ext_call, which may take long: frees the worker; False if too many are under way."""
        self.free()
        with self._room.calls.one() as taken:
            yield taken

    @contextmanager
    def settling(self) -> Iterator[bool]:
        """For a file that is still being written: frees the worker; False if too many are waited for."""
        self.free()
        with self._room.settles.one() as taken:
            yield taken
