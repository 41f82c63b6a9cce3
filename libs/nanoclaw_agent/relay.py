"""The model relay on the container's localhost: `python -m nanoclaw_agent relay [--port N] [-- command …]`.

SDKs and coding agents want an address, not a unix socket. This listens on 127.0.0.1 and passes bytes to the attempt's
socket, both ways, without looking at them. With a command it runs that with the variables set by which SDKs find a
messages API, passes SIGTERM and SIGINT on, and ends with its exit code; without one it serves until SIGTERM.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator

from nanoclaw_agent.environment import Environment

HOST = "127.0.0.1"
NO_KEY = "nanoclaw-relay"
"""What SDKs get for a key: they insist on one, and the relay ignores it."""
PATIENCE_SECONDS = 10.0
"""How long a broker that is just being restarted is waited for."""
_PAUSE_SECONDS = 0.05
_CHUNK = 64 * 1024


def main(arguments: list[str]) -> int:
    """The exit code: the command's; 0 at SIGTERM without one; 2 where there is no relay, or no such command."""
    parser = argparse.ArgumentParser(prog="python -m nanoclaw_agent relay", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; without it, one that is free")
    parser.add_argument("command", nargs="*", help="what to run with it, after --")
    options = parser.parse_args(arguments)
    path = Environment.read().relay_socket
    if not path:
        print("nanoclaw relay: this group has no relay; an operator sets relay = true for it", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_run(path, options.port, options.command))
    except OSError as error:
        print(f"nanoclaw relay: {error}", file=sys.stderr)
        return 2


def variables(port: int) -> dict[str, str]:
    """By which SDKs and coding agents find the relay. Nothing in them is a secret."""
    return {
        "ANTHROPIC_BASE_URL": f"http://{HOST}:{port}",
        "ANTHROPIC_API_KEY": NO_KEY,
        "NO_PROXY": f"{HOST},localhost",
        "no_proxy": f"{HOST},localhost",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


@contextlib.asynccontextmanager
async def serving(path: str, port: int = 0) -> AsyncIterator[int]:
    """Listens while the block runs; answers the port. Raises OSError."""
    connections: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        try:
            await _pass_on(path, reader, writer)
        except asyncio.CancelledError:
            return  # by us, below: Python 3.11 and 3.12 print a traceback for a connection's task that ends cancelled
        finally:
            connections.discard(asyncio.current_task())

    server = await asyncio.start_server(serve, HOST, port)
    try:
        taken: int = server.sockets[0].getsockname()[1]
        yield taken
    finally:
        server.close()
        await asyncio.sleep(0)  # a connection that has just come gets into the set
        still = [task for task in connections if task is not None]
        for task in still:
            task.cancel()
        await asyncio.gather(*still, return_exceptions=True)


async def _run(path: str, port: int, command: list[str]) -> int:
    async with serving(path, port) as taken:
        if command:
            return await _child(command, variables(taken))
        print(f"ANTHROPIC_BASE_URL=http://{HOST}:{taken}", flush=True)
        stopped = asyncio.Event()
        with _handling(stopped.set):
            await stopped.wait()
        return 0


async def _child(command: list[str], more: dict[str, str]) -> int:
    stop = asyncio.Event()
    with _handling(stop.set):  # from before there is a child, so that none is left behind
        try:
            child = await asyncio.create_subprocess_exec(*command, env={**os.environ, **more})
        except FileNotFoundError:
            print(f"nanoclaw relay: {command[0]}: not found", file=sys.stderr)
            return 127
        except PermissionError:
            print(f"nanoclaw relay: {command[0]}: can't be run", file=sys.stderr)
            return 126
        ending = asyncio.create_task(child.wait())
        while not ending.done():
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if stop.is_set():
                stop.clear()
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()
        code = ending.result()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _handling(act: Callable[[], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _pass_on(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, until either side has nothing more to say."""
    try:
        there, back = await _connect(path)
    except OSError:
        writer.close()  # to an SDK a connection that broke, which it tries again
        return
    ways = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
    try:
        # The relay's side ends an exchange: after its last byte nobody waits for anything.
        await asyncio.wait({ways[1]})
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for one in (writer, back):
            one.close()
        for one in (writer, back):
            with contextlib.suppress(OSError):
                await one.wait_closed()


async def _connect(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the socket, which may be made anew just now. Raises OSError."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        folder = -1
        try:
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
            # The path by itself may be longer than that of a socket may be.
            return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        except (FileNotFoundError, ConnectionRefusedError):
            if asyncio.get_running_loop().time() > deadline:
                raise
        finally:
            if folder >= 0:
                os.close(folder)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
