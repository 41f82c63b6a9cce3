"""`python -m nanoclaw_agent relay`: bytes between localhost and the attempt's socket, and what runs with it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nanoclaw_agent import relay

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "ANTHROPIC_"))}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one."""
    path = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


class Socket:
    """The broker's side: says `you said …` to each line, and `bye` to an end of input."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = 0
        self.ended = asyncio.Event()

    async def serve(self) -> None:
        self._server = await asyncio.start_unix_server(self._talk, str(self.path))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(b"you said " + line)
                await writer.drain()
            writer.write(b"bye\n")
            await writer.drain()
        self.ended.set()
        writer.close()

    async def close(self) -> None:
        self._server.close()
        self.path.unlink(missing_ok=True)  # Python 3.13 has removed it by now


@pytest.fixture
async def there(folder: Path) -> AsyncIterator[Socket]:
    socket = Socket(folder / "llm.sock")
    await socket.serve()
    yield socket
    with contextlib.suppress(FileNotFoundError):
        await socket.close()


async def start(path: Path | str, *arguments: str) -> asyncio.subprocess.Process:
    """The command, with that relay."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nanoclaw_agent", "relay", *arguments),
        env={**ENVIRONMENT, "NANOCLAW_RELAY_SOCKET": str(path)} if path else ENVIRONMENT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_bytes_go_both_ways_as_they_come(there: Socket) -> None:
    """Nothing is collected, nothing is looked at; an end on one side is one on the other."""
    async with relay.serving(str(there.path)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for word in (b"one\n", b"\x00\xff\n"):
            writer.write(word)
            assert await asyncio.wait_for(reader.readline(), 5) == b"you said " + word
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b"bye\n"
        writer.close()


async def test_who_goes_away_here_goes_away_there(there: Socket) -> None:
    """The broker has to know that nobody reads on."""
    async with relay.serving(str(there.path)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one\n")
        await writer.drain()
        writer.transport.abort()
        await asyncio.wait_for(there.ended.wait(), 5)


async def test_a_broker_that_restarts_is_waited_for(there: Socket) -> None:
    """Its socket is another one afterwards, in the same folder."""
    async with relay.serving(str(there.path)) as port:
        await there.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one\n")
        await there.serve()
        assert await asyncio.wait_for(reader.readline(), 5) == b"you said one\n"
        writer.close()


async def test_a_broker_that_stays_away_is_a_broken_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which an SDK reports, or tries again."""
    monkeypatch.setattr(relay, "PATIENCE_SECONDS", 0.1)
    async with relay.serving(str(folder / "llm.sock")) as port, httpx.AsyncClient() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"http://127.0.0.1:{port}/v1/models")


async def test_a_long_path_is_no_obstacle(folder: Path) -> None:
    """Unsandboxed agents see the relay where it lies."""
    deep = folder / ("x" * 120)
    deep.mkdir()
    (folder / "short").symlink_to(deep)
    socket = Socket(folder / "short" / "llm.sock")
    await socket.serve()
    async with relay.serving(str(deep / "llm.sock")) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"you said one\n"
        writer.close()
    await socket.close()


async def test_a_command_finds_the_relay_by_the_variables_of_sdks(there: Socket) -> None:
    """It gets our stdin, and its exit code is ours."""
    program = (
        "import json, os, sys, urllib.parse, socket\n"
        "print(json.dumps({**os.environ, 'line': sys.stdin.readline()}))\n"
        "address = urllib.parse.urlsplit(os.environ['ANTHROPIC_BASE_URL'])\n"
        "s = socket.create_connection((address.hostname, address.port))\n"
        "s.sendall(b'x\\n'); print(s.recv(99)); s.close()\n"
        "sys.exit(7)"
    )
    process = await start(there.path, "--", sys.executable, "-c", program)
    out, err = await asyncio.wait_for(process.communicate(b"hello\n"), 20)
    assert (process.returncode, err) == (7, b"")
    first, second = out.decode().splitlines()
    found: dict[str, Any] = json.loads(first)
    assert found["line"] == "hello\n"
    assert found["ANTHROPIC_BASE_URL"].startswith("http://127.0.0.1:")
    assert (found["ANTHROPIC_API_KEY"], second) == ("nanoclaw-relay", "b'you said x\\n'")


@pytest.mark.parametrize(
    ("command", "code"), [(("/nowhere/at/all",), 127), (("/dev/null",), 126), (("sh", "-c", "kill -9 $$"), 137)]
)
async def test_a_command_that_fails_says_so_by_its_exit_code(
    there: Socket, command: tuple[str, ...], code: int
) -> None:
    """As a shell would."""
    process = await start(there.path, "--", *command)
    await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == code


async def test_sigterm_reaches_the_command(there: Socket) -> None:
    """Which then ends in its own way."""
    process = await start(there.path, "--", "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 20)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 5


async def test_without_a_command_it_says_where_and_serves_until_sigterm(there: Socket) -> None:
    """For who sets up its own agent."""
    process = await start(there.path)
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    port = int(line.removeprefix("ANTHROPIC_BASE_URL=http://127.0.0.1:"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"one\n")
    assert await asyncio.wait_for(reader.readline(), 5) == b"you said one\n"
    writer.close()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.mark.parametrize("arguments", [("--", "true"), ()])
async def test_a_group_without_a_relay_is_told(arguments: tuple[str, ...]) -> None:
    """And nothing runs that would find out later."""
    process = await start("", *arguments)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, b"relay = true" in err) == (2, True)
