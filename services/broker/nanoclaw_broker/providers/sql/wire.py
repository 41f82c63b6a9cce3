"""How much a PostgreSQL server may answer to one statement: asyncpg itself reads whatever comes into memory."""

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpg import Connection

MOST_BYTES = 8 * 1024 * 1024
_HIGH_ENOUGH = 2**63


class Wire(asyncio.Protocol):
    """Stands between a connection's transport and its protocol. over: an answer was too large, so it hung up."""

    def __init__(self, connection: "Connection[Any]") -> None:
        known: Any = connection  # it keeps both to itself
        self._inner: Any = known._protocol
        self._transport: asyncio.Transport = known._transport
        self._left = _HIGH_ENOUGH
        self.over = False
        self._transport.set_protocol(self)

    def expect(self, most: int = _HIGH_ENOUGH) -> None:
        """From now on, no more bytes than these."""
        self._left = most

    def data_received(self, data: bytes) -> None:
        """Passes it on, or hangs up."""
        self._left -= len(data)
        if self._left >= 0:
            self._inner.data_received(data)
        elif not self.over:
            self.over = True
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._inner.connection_lost(error)

    def eof_received(self) -> bool | None:
        answer: bool | None = self._inner.eof_received()
        return answer

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
