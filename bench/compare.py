"""Two loads in turn, and how they compare: medians over short rounds, so that noise meets both alike."""

import statistics
from collections.abc import Sequence

from bench.load import Call, closed_loop
from bench.rows import Sample

ROUNDS = 7
SECONDS = 0.5

Subject = tuple[Call, int]
"""A call, and the pid of the process that serves it (0: not counted)."""


async def in_turn(baseline: Subject, subject: Subject, callers: int) -> tuple[list[Sample], list[Sample]]:
    """Rounds of both in turn, after a warm-up."""
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for call, pid in (baseline, subject):
        await closed_loop(call, callers, SECONDS / 4, pid)
    for _ in range(ROUNDS):
        for (call, pid), kept in zip((baseline, subject), samples, strict=True):
            kept.append(await closed_loop(call, callers, SECONDS, pid))
    return samples


def throughput(baseline: Sequence[Sample], subject: Sequence[Sample]) -> float:
    """The median over rounds of the subject's calls a second over the baseline's."""
    return statistics.median(ours.per_second / bare.per_second for bare, ours in zip(baseline, subject, strict=True))


def latency(baseline: Sequence[Sample], subject: Sequence[Sample]) -> float:
    """The median over rounds of the subject's median latency over the baseline's."""
    return statistics.median(ours.p50 / bare.p50 for bare, ours in zip(baseline, subject, strict=True))
