"""`python -m nanoclaw_cli.ingress 50051=governance:50051 …`: hands TCP connections on, whatever they say.

The services' networks have no way out, and so none in: an engine publishes no port of a container that is only on such
networks. This is the one container that is on an ordinary network, too. It holds no secret and no data; TLS goes
through it from end to end.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_CHUNK = 64 * 1024
_DIAL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Way:
    """From a port of ours to host:port."""

    port: int
    host: str
    to_port: int

    @classmethod
    def parse(cls, text: str) -> "Way":
        """`50051=governance:50051`. Raises ValueError."""
        port, _, target = text.partition("=")
        host, _, to_port = target.rpartition(":")
        if not host:
            raise ValueError(f"{text!r} is not PORT=HOST:PORT")
        return cls(int(port), host, int(to_port))

    async def open(self, host: str = "0.0.0.0") -> asyncio.Server:  # noqa: S104 - a container's own address
        """Begins to hand on."""
        return await asyncio.start_server(self._hand_on, host, self.port)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                to_reader, to_writer = await asyncio.open_connection(self.host, self.to_port)
        except (OSError, TimeoutError) as error:
            sys.stderr.write(f"{self.host}:{self.to_port} can't be reached: {error}\n")
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, to_writer))
                both.create_task(_copy(to_reader, writer))
        except* OSError:
            pass  # one side has broken off, so the other one is, too
        finally:
            writer.transport.abort()
            to_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def run(ways: Sequence[Way]) -> None:
    """Until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    servers = [await way.open() for way in ways]
    await ended.wait()
    for server in servers:
        server.close()


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    try:
        ways = [Way.parse(text) for text in arguments]
    except ValueError as error:
        sys.stderr.write(f"{error}; write each way as PORT=HOST:PORT\n")
        return 2
    asyncio.run(run(ways))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
