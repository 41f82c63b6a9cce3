"""A server that is a child process, one JSON message a line: the library's own transport reads lines of any length.

Imported at the first connection, as wire.py is.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

_GRACE_SECONDS = 2.0
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@asynccontextmanager
async def opened(
    command: Sequence[str], environment: Mapping[str, str], folder: str | None, most_bytes: int
) -> AsyncIterator[Any]:
    """The streams of a client. A line of more than `most_bytes` ends the connection.

    environment: beside PATH, HOME and the like. What the child says on stderr is nobody's. In the end its stdin is
    closed; it has a grace, then it and its children are killed. Raises OSError where it can't be started.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=get_default_environment() | dict(environment),
        cwd=folder,
        limit=most_bytes,
        start_new_session=True,
    )
    came, coming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    going, goes = anyio.create_memory_object_stream[SessionMessage](0)
    pumps = [asyncio.create_task(_receive(child, came)), asyncio.create_task(_send(child, goes, came))]
    try:
        yield coming, going
    finally:
        for stream in (came, coming, going, goes):
            stream.close()
        for pump in pumps:
            pump.cancel()
        await _whatever_comes(asyncio.create_task(_end(child, pumps)))


async def _whatever_comes(ending: asyncio.Task[None]) -> None:
    """Waits for it; who is cancelled meanwhile, however often, is so afterwards: no child is left behind."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def _receive(child: asyncio.subprocess.Process, came: Any) -> None:
    assert child.stdout is not None
    with suppress(*_GONE, ValueError):  # a ValueError: the line is too long
        while line := await child.stdout.readline():
            try:
                message: Any = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError as error:  # no message: the session's to judge
                message = error
            await came.send(message)
    came.close()


async def _send(child: asyncio.subprocess.Process, goes: Any, came: Any) -> None:
    assert child.stdin is not None
    with suppress(*_GONE):
        async for sent in goes:
            child.stdin.write(sent.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await child.stdin.drain()
    came.close()  # who waits for an answer must not wait for ever


async def _end(child: asyncio.subprocess.Process, pumps: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*pumps, return_exceptions=True)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    leaving = asyncio.create_task(child.wait())
    draining = asyncio.create_task(_drain(child.stdout))  # a child that still writes could not leave
    await asyncio.wait({leaving}, timeout=_GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    await asyncio.wait({leaving}, timeout=_GRACE_SECONDS)
    for task in (leaving, draining):
        task.cancel()
    await asyncio.gather(leaving, draining, return_exceptions=True)


async def _drain(stdout: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await stdout.read(65_536):
            pass
