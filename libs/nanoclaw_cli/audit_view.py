"""A verification's report, as people and programs read it."""

from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from nanoclaw_cli.invocation import current
from nanoclaw_cli.output import console, say_json
from nanoclaw_store import Report

SHOWN = 20
"""Findings shown to people; programs get them all."""


def show(database: Path, report: Report) -> None:
    """Says what was found."""
    if current().as_json:
        say_json(_as_dict(database, report))
        return
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("slice", "rows", "head", "hash", "state"):
        table.add_column(heading)
    for part in report.slices:
        ok = not part.findings
        verdict = Text("whole, equals the fold", style="green") if ok else Text("broken", style="bold red")
        head = f"epoch {part.head.epoch}, row {part.head.seq}"
        table.add_row(part.name, str(part.rows), head, part.head.hash[:16], verdict)
    out.print(table)
    for finding in report.findings[:SHOWN]:
        out.print(Text(finding, style="red"), soft_wrap=True)
    if len(report.findings) > SHOWN:
        out.print(f"… and {len(report.findings) - SHOWN} more; --json has them all")
    rows = sum(part.rows for part in report.slices)
    if report.ok:
        out.print(f"{database}: {rows} rows, every chain whole, the state equals the fold of the log", soft_wrap=True)
    else:
        out.print(Text(f"{database}: BROKEN, {len(report.findings)} findings", style="bold red"), soft_wrap=True)


def _as_dict(database: Path, report: Report) -> dict[str, object]:
    broken = report.first_broken
    return {
        "database": str(database),
        "ok": report.ok,
        "slices": [
            {"name": part.name, "rows": part.rows, "head": part.head._asdict(), "findings": list(part.findings)}
            for part in report.slices
        ],
        "first_broken": broken._asdict() if broken else None,
        "findings": list(report.findings),
    }
