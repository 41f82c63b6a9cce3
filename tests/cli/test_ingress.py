"""The way in: TCP handed on both ways, and nothing kept open that leads nowhere."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from nanoclaw_cli import ingress


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that answers what it is sent, in capitals, once its client has said all."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_what_is_said_goes_through_both_ways(echo: int) -> None:
    """A megabyte and the end of it, for several at once."""
    server = await ingress.Way(0, "127.0.0.1", echo).open("127.0.0.1")
    port = server.sockets[0].getsockname()[1]

    async def ask(text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()

    asked = [f"{number}-".encode() * 200_000 + b"end" for number in range(4)]
    assert await asyncio.gather(*(ask(text) for text in asked)) == [text.upper() for text in asked]
    server.close()


async def test_a_service_that_is_away_closes_the_connection(unused_tcp_port_of_nobody: int) -> None:
    """At once: a client that is kept waiting would not try again."""
    server = await ingress.Way(0, "127.0.0.1", unused_tcp_port_of_nobody).open("127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionError):
        if await reader.read() == b"":
            raise ConnectionResetError
    writer.close()
    server.close()


@pytest.fixture
async def unused_tcp_port_of_nobody() -> int:
    """A port that nobody listens on."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


def test_a_way_is_written_port_host_port(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not stops the start, with how to write it."""
    assert ingress.Way.parse("50051=governance:50052") == ingress.Way(50051, "governance", 50052)
    assert ingress.main(["governance:50051"]) == 2
    assert "PORT=HOST:PORT" in capsys.readouterr().err
