"""A proxy before a server, which cuts off what the server answers, or keeps it back, from some byte on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

PASS, CUT, HANG = "pass", "cut", "hang"


class Cutting:
    """begins: what ends the login. at: the byte of the answers after it at which it happens. how: PASS, CUT or HANG."""

    def __init__(self, begins: bytes) -> None:
        self._begins = begins
        self.at, self.how = 0, PASS

    @asynccontextmanager
    async def serving(self, path: Path, before: Path) -> AsyncIterator[None]:
        """On the unix socket `path`, before that of the server."""

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_unix_connection(before)
            forth = asyncio.create_task(_forth(reader, far_writer))
            with suppress(OSError):
                if await self._back(far_reader, writer):
                    await forth  # silent, until the client has had enough
            for one in (writer, far_writer):
                one.transport.abort()
            await forth

        listening = await asyncio.start_unix_server(take, path)
        async with listening:
            yield

    async def _back(self, far: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Passes answers on until they end, or are cut off; True: they are kept back from now on."""
        login, seen = b"", 0
        while self._begins not in login:
            data = await far.read(65_536)
            writer.write(data)
            login += data
            if not data:
                return False
        while data := await far.read(65_536):
            here, seen = self.at - seen, seen + len(data)
            if self.how != PASS and 0 <= here < len(data):
                writer.write(data[:here])
                await writer.drain()
                return self.how == HANG
            writer.write(data)
            await writer.drain()
        return False


async def _forth(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
        writer.write_eof()
