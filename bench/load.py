"""A closed-loop load: so many callers, each sending its next call when the last one is answered."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.rows import Sample

Call = Callable[[int], Awaitable[object]]
"""Makes one call as the caller of that number."""

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def closed_loop(call: Call, callers: int, seconds: float, pid: int = 0) -> Sample:
    """Runs the load for so many seconds; `pid` is the serving process whose CPU is counted."""
    latencies: list[float] = []
    clock = time.perf_counter
    cpu = cpu_seconds(pid) if pid else 0.0
    began = clock()
    end = began + seconds

    async def caller(number: int) -> None:
        while (start := clock()) < end:
            await call(number)
            latencies.append(clock() - start)

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return Sample(latencies, clock() - began, cpu_seconds(pid) - cpu if pid else 0.0)
