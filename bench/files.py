"""Rows of the gateway: a request file until its answer is visible, files a second, and what it costs to wait."""

import asyncio
import itertools
import json
import statistics
import time
from pathlib import Path

from bench.load import cpu_seconds
from bench.rows import Row, Sample, row
from bench.system import System

_numbers = itertools.count()
IDLE_SECONDS = 10.0


def write(mailbox: Path) -> Path:
    """Writes a request as an agent does, and answers where its response will be."""
    name = f"bench-{next(_numbers)}"
    body = json.dumps({"type": "gov_transition", "taskId": f"no-such-{name}", "toState": "REVIEW", "request_id": name})
    temporary = mailbox / "tasks" / f"{name}.tmp"
    temporary.write_text(body)
    temporary.rename(mailbox / "tasks" / f"{name}.json")
    return mailbox / "responses" / f"{name}.json"


async def answered(response: Path) -> None:
    """Looks every 200 µs until the response is there."""
    while not response.exists():
        await asyncio.sleep(0.0002)


async def rows(one: System) -> list[Row]:
    """One file at a time, then 64 in flight, then none."""
    mailbox = one.home / "ipc" / "developer"
    await answered(mailbox / "responses")
    pid = one.pid("gateway")
    await _some(mailbox, 100, 1, pid)
    single = await _some(mailbox, 500, 1, pid)
    rounds = [await _some(mailbox, 1500, 64, pid) for _ in range(3)]
    before = cpu_seconds(pid)
    await asyncio.sleep(IDLE_SECONDS)
    idle = (cpu_seconds(pid) - before) / IDLE_SECONDS
    many = statistics.median(sample.per_second for sample in rounds)
    return [
        row("file request until its answer, p50, ms", 1, single.p50 * 1e3, 6, False, [single]),
        row("file request until its answer, p99, ms", 1, single.p99 * 1e3, 25, False, [single]),
        row("files a second, sustained", 64, many, 500, True, rounds),
        Row("gateway idle, share of a core", 0, round(idle, 4), 0.01, False),
    ]


async def _some(mailbox: Path, files: int, callers: int, pid: int) -> Sample:
    latencies: list[float] = []
    left = iter(range(files))
    began, cpu = time.perf_counter(), cpu_seconds(pid)

    async def caller() -> None:
        for _ in left:
            start = time.perf_counter()
            await answered(write(mailbox))
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Sample(latencies, time.perf_counter() - began, cpu_seconds(pid) - cpu)
