"""An exhaustive walk: every state that a model can reach, what is wrong with any of them, and the way there."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One step of a model. helps: it is one that the system takes by itself, with no accident and nobody's whim."""

    name: str
    state: Hashable
    helps: bool = True


class Wrong(Exception):
    """Raised by a model's step that breaks an invariant in passing."""


@dataclass
class Walk:
    """What a walk found. wrong: the first violation; way: the names of the steps that lead to it."""

    states: int = 0
    wrong: str = ""
    way: list[str] = field(default_factory=list)


def walk(
    start: Any,
    steps: Callable[[Any], Iterable[Step]],
    check: Callable[[Any], str],
    is_end: Callable[[Any], bool],
    key: Callable[[Any], Hashable] = lambda state: state,
    most: int = 2_000_000,
) -> Walk:
    """Breadth first over all states; stops at the first that `check` objects to.

    Then every state must be able to reach an end by helping steps alone: whatever happened before, if nothing more
    goes wrong, it ends well.
    """
    found = Walk()
    first = key(start)
    came_from: dict[Any, tuple[Any, str]] = {first: (None, "")}
    backwards: dict[Any, list[Any]] = {}
    queue = deque([(first, start)])
    ends = []
    while queue:
        here, state = queue.popleft()
        if is_end(state):
            ends.append(here)
        for step in _taken(steps(state)):
            if isinstance(step, Wrong):
                return _report(found, came_from, here, str(step))
            there = key(step.state)
            if step.helps:
                backwards.setdefault(there, []).append(here)
            if there in came_from:
                continue
            came_from[there] = (here, step.name)
            if objection := check(step.state):
                return _report(found, came_from, there, objection)
            queue.append((there, step.state))
            assert len(came_from) <= most, f"more than {most} states: make the model smaller"
    found.states = len(came_from)
    saved, spreading = set(ends), deque(ends)
    while spreading:
        for before in backwards.get(spreading.popleft(), ()):
            if before not in saved:
                saved.add(before)
                spreading.append(before)
    for state in came_from:  # in the order in which they were found: the first is nearest
        if state not in saved:
            return _report(found, came_from, state, "no way leads to an end from here")
    return found


def _taken(steps: Iterable[Step]) -> Iterator[Step | Wrong]:
    iterator = iter(steps)
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except Wrong as wrong:
            yield wrong
            return


def _report(found: Walk, came_from: dict[Any, tuple[Any, str]], state: Any, wrong: str) -> Walk:
    found.states, found.wrong = len(came_from), wrong
    while state is not None:
        state, name = came_from[state]
        if name:
            found.way.insert(0, name)
    return found
