"""A measured row: a path, how it compares with its baseline, and whether that is enough."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    ratio: to the baseline that the path names, throughput over throughput or time over time, or the figure itself.
    target: what it must hold, at least or at most. Latencies in milliseconds; cpu_us of the serving process a call.
    """

    path: str
    callers: int
    ratio: float
    target: float
    at_least: bool
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    per_second: float = 0.0
    cpu_us: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the target holds."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of a load: latencies in seconds, and what the serving process spent."""

    latencies: Sequence[float]
    seconds: float
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Calls a second."""
        return len(self.latencies) / self.seconds

    @property
    def p50(self) -> float:
        """Median latency, seconds."""
        return statistics.median(self.latencies)

    @property
    def p99(self) -> float:
        """99th percentile, seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]

    @property
    def cpu_us(self) -> float:
        """CPU of the serving process for each call, microseconds."""
        return self.cpu_seconds / len(self.latencies) * 1e6


def row(path: str, callers: int, ratio: float, target: float, at_least: bool, samples: Sequence[Sample]) -> Row:
    """A row with the medians of the rounds."""

    def middle(name: str) -> float:
        return statistics.median(getattr(sample, name) for sample in samples)

    return Row(
        path,
        callers,
        round(ratio, 3),
        target,
        at_least,
        round(middle("p50") * 1e3, 3),
        round(middle("p99") * 1e3, 3),
        round(middle("per_second"), 1),
        round(middle("cpu_us"), 1),
    )


def show(rows: Iterable[Row], console: Console) -> None:
    """The table."""
    table = Table("path", "callers", "ratio", "must", "ok", "p50 ms", "p99 ms", "a second", "cpu µs")
    for one in rows:
        table.add_row(
            one.path,
            str(one.callers),
            f"{one.ratio:.3g}",
            f"{'≥' if one.at_least else '≤'} {one.target:g}",
            "[green]yes" if one.ok else "[red]no",
            *(f"{value:,.2f}" if value else "" for value in (one.p50_ms, one.p99_ms)),
            *(f"{value:,.0f}" if value else "" for value in (one.per_second, one.cpu_us)),
        )
    console.print(table)


def save(rows: Iterable[Row], path: Path) -> None:
    """Writes the rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{**asdict(one), "ok": one.ok} for one in rows], indent=2) + "\n")
