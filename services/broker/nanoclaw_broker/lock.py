"""One broker per home: a second one would take the first one's calls for crashed."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError

_PAUSE_SECONDS = 0.05


@asynccontextmanager
async def held(path: Path, wait_seconds: float = 10.0) -> AsyncIterator[None]:
    """Holds the lock of a file; waits for one that is just stopping. The kernel lets go of it when we die.

    Raises ALREADY_RUNNING.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await _lock(descriptor, path, asyncio.get_running_loop().time() + wait_seconds)
        yield
    finally:
        os.close(descriptor)


async def _lock(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                raise NanoclawError(
                    Kind.PRECONDITION,
                    "ALREADY_RUNNING",
                    f"another broker holds {path}",
                    next_step="stop it, or use another NANOCLAW_HOME",
                ) from None
            await asyncio.sleep(_PAUSE_SECONDS)
