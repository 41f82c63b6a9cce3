"""Rows of the whole: the offline verifier, memory of idle services, and the start of all four."""

import time
from pathlib import Path

from bench.rows import Row
from bench.system import System, home, system
from nanoclaw_cli.services import SERVICES
from nanoclaw_store import verify


def audit(one: System) -> list[Row]:
    """Rows a second that `nanoclaw audit verify` reads, over whatever the other sections wrote."""
    began = time.perf_counter()
    report = verify(one.home / "store" / "nanoclaw.db")
    seconds = time.perf_counter() - began
    assert report.ok, report.findings[:3]
    rows = sum(part.rows for part in report.slices)
    return [Row(f"audit verify, rows a second ({rows:,} rows)", 1, round(rows / seconds), 30_000, True)]


async def start() -> list[Row]:
    """Start until all four serve, and the largest idle one's memory."""
    found = []
    async with home() as where:
        async with system(where):
            pass  # the first start makes the schema
        began = time.perf_counter()
        async with system(where) as one:
            found.append(Row("start of all four until serving, s", 0, round(time.perf_counter() - began, 2), 4, False))
            for service in SERVICES:
                name = f"memory of an idle {service.name}, MB"
                found.append(Row(name, 0, round(resident_mb(one.pid(service.name)), 1), 90, False))
    return found


def resident_mb(pid: int) -> float:
    """VmRSS of a process, in MB of 10**6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6
