"""The DBOS side of the comparison: workflows of n no-op steps on SQLite, 16 at once; runs in an environment of its own.

Usage: python dbos_workload.py FOLDER WORKFLOWS STEPS CALLERS; prints one JSON object: steps, seconds, cpu_seconds.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from dbos import DBOS, DBOSConfig


@DBOS.step()
async def step(number: int) -> int:
    """Does nothing, durably."""
    return number


@DBOS.workflow()
async def workflow(steps: int) -> int:
    """As many durable steps as one governed task takes."""
    for number in range(steps):
        await step(number)
    return steps


async def run(workflows: int, steps: int, callers: int) -> None:
    """Runs the workflows, at most `callers` at once."""
    slots = asyncio.Semaphore(callers)

    async def one() -> None:
        async with slots:
            await workflow(steps)

    await asyncio.gather(*(one() for _ in range(workflows)))


def main() -> None:
    """Warms up, measures, prints."""
    folder, workflows, steps, callers = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": f"sqlite:///{folder / 'dbos.sqlite'}",
        "log_level": "ERROR",
        "run_admin_server": False,
    }
    DBOS(config=config)
    DBOS.launch()
    asyncio.run(run(max(workflows // 5, 1), steps, callers))
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run(workflows, steps, callers))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"steps": workflows * steps, "seconds": seconds, "cpu_seconds": cpu_seconds}))
    DBOS.destroy()


if __name__ == "__main__":
    main()
