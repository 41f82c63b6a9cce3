"""Runs the sections named, or all: `python -m bench [section …]`; a wrong name gets the list."""

import asyncio
import sys
from pathlib import Path

from rich.console import Console

from bench import agent_start, broker, containers, files, governance, governed, machine, sink
from bench.rows import Row, save, show
from bench.system import home, system

RESULTS = Path(__file__).parent / "results" / "latest.json"
SECTIONS = ("governance", "broker", "files", "traced", "scale", "governed", "agent", "container", "start")


async def measure(wanted: set[str], console: Console) -> list[Row]:
    """The rows of the sections wanted, each shown as soon as it is there."""
    found: list[Row] = []

    def keep(rows: list[Row]) -> None:
        found.extend(rows)
        show(rows, console)

    if "governance" in wanted:
        async with home() as where, system(where, services=governance.ALONE) as one:
            keep(await governance.rows(one))
            keep(machine.audit(one))
    async with home() as where, system(where, broker.ENVIRON) as one:
        if "broker" in wanted:
            keep(await broker.rows(one))
        if "files" in wanted:
            keep(await files.rows(one))
    if "traced" in wanted:
        async with (
            home() as where,
            sink.running() as endpoint,
            system(where, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, governance.ALONE) as one,
        ):
            keep(await governance.traced(one))
    if "scale" in wanted:
        keep(await governance.at_scale())
    if "governed" in wanted:
        keep(await governed.rows())
    if "agent" in wanted:
        keep(await agent_start.rows())
    if "container" in wanted:
        if why := containers.missing():
            console.print(f"container: left out, {why}")
        else:
            keep(await containers.rows())
    if "start" in wanted:
        keep(await machine.start())
    return found


def main() -> int:
    """0 if every row holds."""
    wanted = set(sys.argv[1:]) or set(SECTIONS)
    console = Console(width=130)
    if unknown := wanted - set(SECTIONS):
        console.print(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
        return 2
    rows = asyncio.run(measure(wanted, console))
    if wanted == set(SECTIONS):
        save(rows, RESULTS)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
