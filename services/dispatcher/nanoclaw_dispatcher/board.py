"""What the dispatcher knows of the tasks in flight, in memory only: rebuilt from governance at every start."""

from collections.abc import Iterator
from typing import NamedTuple

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_dispatcher.dispatch import Start
from nanoclaw_dispatcher.task import Task, TaskState

IN_FLIGHT = frozenset({TaskState.READY, TaskState.DOING, TaskState.REVIEW, TaskState.APPROVAL})


class Candidate(NamedTuple):
    """A start that the rules ask for and that has no slot yet. since: TEXT time from which it waits."""

    start: Start
    task: Task
    since: str


class Board:
    """The latest reading of every task in flight, and the starts that wait for a slot, by task."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Task, pb.Task]] = {}
        self._doing: dict[str, set[str]] = {}
        self.candidates: dict[str, Candidate] = {}

    def see(self, task: Task, message: pb.Task) -> tuple[Task, pb.Task]:
        """Takes a reading in; answers the newest there is. What is not in flight is forgotten."""
        known = self._known.get(task.id)
        if known is not None and known[0].version > task.version:
            return known
        self.forget(task.id)
        if task.state in IN_FLIGHT:
            self._known[task.id] = (task, message)
            if task.state is TaskState.DOING:
                self._doing.setdefault(task.assigned_group, set()).add(task.id)
        return task, message

    def begin(self, task: Task) -> None:
        """The task is about to enter DOING; the next reading says whether it did."""
        self._doing.setdefault(task.assigned_group, set()).add(task.id)

    def forget(self, task_id: str) -> None:
        """The task is in flight no more."""
        known = self._known.pop(task_id, None)
        if known is not None:
            self._doing.get(known[0].assigned_group, set()).discard(task_id)

    def offer(self, task: Task, start: Start, now: str) -> None:
        """The rules ask for a start; it keeps its place in the queue while its task only changes a little."""
        before = self.candidates.get(task.id)
        since = before.since if before is not None and before.start.rule is start.rule else now
        self.candidates[task.id] = Candidate(start, task, since)

    def get(self, task_id: str) -> Task | None:
        """The latest reading of a task in flight."""
        known = self._known.get(task_id)
        return known[0] if known else None

    def __iter__(self) -> Iterator[Task]:
        return (task for task, _ in list(self._known.values()))

    def __len__(self) -> int:
        return len(self._known)

    def doing(self) -> dict[str, int]:
        """How many tasks each group has in DOING."""
        return {group: len(tasks) for group, tasks in self._doing.items()}
