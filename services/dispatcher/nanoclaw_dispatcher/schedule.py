"""Which of the waiting may start now: slots, P0 first, fair between groups, work in progress, backoff. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that wants a slot.

    key: the dispatch key. since, not_before: TEXT times; an empty not_before is no wait. begins: it takes a task from
    READY into DOING and so adds to the group's work in progress; everything else goes on with what is begun.
    """

    key: str
    group: str
    priority: int
    since: str
    not_before: str = ""
    begins: bool = True


@dataclass(frozen=True, slots=True)
class WipLimit:
    """How many tasks a group should have in DOING. hard: no further one is started; else it is only said."""

    limit: int = 3
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What is going on. running: live attempts by group. doing: tasks in DOING by group. turns: a number for each group
    that rises with its last start, so that who waited longest goes first."""

    slots: int
    running: Mapping[str, int]
    doing: Mapping[str, int]
    turns: Mapping[str, int]
    wip: Mapping[str, WipLimit]


def choose(waiting: Iterable[Waiting], load: Load, now: str) -> list[Waiting]:
    """Who starts now, in order, at most `load.slots`.

    The most urgent priority first. Among its groups the one with the fewest live attempts, then the one whose last
    start is longest ago; within a group who waits longest.
    """
    running, doing, turns = dict(load.running), dict(load.doing), dict(load.turns)
    turn = max(turns.values(), default=0)
    left = [each for each in waiting if each.not_before <= now]
    chosen: list[Waiting] = []
    while left and len(chosen) < load.slots:
        ready = [each for each in left if not (each.begins and held(each.group, doing, load.wip))]
        if not ready:
            break
        best = min(ready, key=lambda w: (w.priority, running.get(w.group, 0), turns.get(w.group, 0), w.since, w.key))
        chosen.append(best)
        left.remove(best)
        turn += 1
        turns[best.group] = turn
        running[best.group] = running.get(best.group, 0) + 1
        if best.begins:
            doing[best.group] = doing.get(best.group, 0) + 1
    return chosen


def held(group: str, doing: Mapping[str, int], wip: Mapping[str, WipLimit]) -> bool:
    """Whether a hard limit keeps the group from beginning another task."""
    limit = wip.get(group, WipLimit())
    return limit.hard and doing.get(group, 0) >= limit.limit


def over(group: str, doing: Mapping[str, int], wip: Mapping[str, WipLimit]) -> bool:
    """Whether the group has more in DOING than it should, which is worth a warning."""
    return doing.get(group, 0) > wip.get(group, WipLimit()).limit


def next_due(waiting: Iterable[Waiting], now: str) -> str:
    """When the next backoff ends, TEXT; empty if none is running."""
    return min((each.not_before for each in waiting if each.not_before > now), default="")
