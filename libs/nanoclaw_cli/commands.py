"""Other programs' commands, run for what they write."""

import asyncio
from collections.abc import Collection

from nanoclaw_core.errors import Kind, NanoclawError


async def output_of(*words: str, refusals: Collection[int] = ()) -> str:
    """What a command writes to stdout. refusals: exit codes beside 0 that are answers, too.

    Raises UNAVAILABLE COMMAND_FAILED with its last line.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode and process.returncode not in refusals:
        last = (err.decode(errors="replace").strip().splitlines() or [f"exit {process.returncode}"])[-1]
        raise NanoclawError(
            Kind.UNAVAILABLE,
            "COMMAND_FAILED",
            f"{' '.join(words[:3])}: {last}",
            next_step="see that the engine runs (docker info), and that you may use it",
        )
    return out.decode(errors="replace")
