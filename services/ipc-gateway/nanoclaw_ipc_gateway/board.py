"""What governance knows of tasks, as far as snapshots show it: kept in memory, bounded, told apart by group."""

from collections.abc import Iterable
from typing import NamedTuple

from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_ipc_gateway import views

MAIN = "main"
MOST_TEXT = 32 * 1024 * 1024
"""Characters of all cards together: what is kept in memory, in each snapshot and in its file has a bound, whatever main
writes into descriptions."""


class Card(NamedTuple):
    """One task: the group that it is assigned to, and its JSON."""

    group: str
    text: str


class Board:
    """The tasks. Done ones go first where there are too many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._live: dict[str, Card] = {}
        self._done: dict[str, Card] = {}
        self._text = 0
        self.truncated = False

    def __len__(self) -> int:
        return len(self._live) + len(self._done)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._live or task_id in self._done

    def put(self, task: governance.Task) -> set[str]:
        """Shows a task as it is now; answers the groups that see a difference."""
        card = Card(task.assigned_group, views.task_text(task))
        before = self._live.pop(task.id, None) or self._done.pop(task.id, None)
        cards = self._done if task.state == governance.TASK_STATE_DONE else self._live
        cards[task.id] = card
        gone = [before] if before else []
        self._text += len(card.text) - (len(before.text) if before else 0)
        while len(self) > self.most or self._text > MOST_TEXT:
            self.truncated = True
            oldest = self._done or self._live
            gone.append(oldest.pop(next(iter(oldest))))
            self._text -= len(gone[-1].text)
        if gone == [card]:
            return set()
        return {MAIN, card.group, *(each.group for each in gone)} - {""}

    def replace(self, tasks: Iterable[governance.Task], *, truncated: bool) -> set[str]:
        """Shows these and no others; answers the groups that see a difference."""
        before = self._by_group()
        self._live.clear()
        self._done.clear()
        self._text = 0
        self.truncated = truncated
        for task in tasks:
            self.put(task)
        after = self._by_group()
        return {group for group in before.keys() | after.keys() if before.get(group) != after.get(group)} | {MAIN}

    def seen_by(self, group: str) -> list[str]:
        """The JSON of the tasks that a group sees: main all of them, others their own."""
        cards = [*self._live.values(), *self._done.values()]
        return [card.text for card in cards if group in (MAIN, card.group)]

    def _by_group(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for card in (*self._live.values(), *self._done.values()):
            found.setdefault(card.group, set()).add(card.text)
        return found
