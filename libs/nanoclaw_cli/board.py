"""The board: where each task stands, who works on it and what happened last, as a live view that fits its terminal."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nanoclaw.governance.v1 import governance_pb2 as pb

STATES = ("INBOX", "TRIAGED", "READY", "DOING", "REVIEW", "APPROVAL", "DONE", "BLOCKED")
WIDE, HIGH = 150, 36
"""Columns and lines of a terminal in which the states stand side by side; in a smaller one each task has a line."""
_STYLES = {"DOING": "green", "REVIEW": "yellow", "APPROVAL": "magenta", "DONE": "bold green", "BLOCKED": "bold red"}


@dataclass
class Board:
    """What the live view shows, as a Rich renderable.

    call: what a call would do that people vote on. call_title: where it stands.
    """

    services: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, pb.Task] = field(default_factory=dict)
    facts: deque[str] = field(default_factory=lambda: deque(maxlen=100))
    headline: str = ""
    call: str = ""
    call_title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The whole view; the log gets the lines of the terminal that the rest leaves."""
        roomy = console.width >= WIDE and console.height >= HIGH
        tasks = list(self.tasks.values())  # at once: they change while another thread draws
        above = Group(
            Text(self.headline, style="bold", no_wrap=True, overflow="ellipsis"),
            self._services(),
            columns(tasks) if roomy else rows(tasks),
            *([Panel(Text(self.call), title=self.call_title, box=box.ROUNDED)] if self.call else []),
        )
        yield above
        room = console.height - len(console.render_lines(above, options)) - 3  # its frame, and the cursor's line
        if room > 0:
            facts = list(self.facts)[-room:]
            log = Text("\n".join(facts), no_wrap=True, overflow="ellipsis")
            yield Panel(log, title="log", box=box.ROUNDED, height=min(room, max(len(facts), 1)) + 2)

    def _services(self) -> Text:
        return Text("  ", no_wrap=True, overflow="ellipsis").join(
            Text.assemble((name, "bold"), " ", (what, "green" if what == "serving" else "yellow"))
            for name, what in list(self.services.items())
        )


def columns(tasks: Sequence[pb.Task]) -> Table:
    """One column a state, one card a task."""
    by_state: Mapping[str, list[Text]] = {state: [] for state in STATES}
    for task in tasks:
        by_state[state_name(task.state)].append(Text.assemble((task.title, "bold"), "\n", _who(task)))
    table = Table(box=box.ROUNDED, expand=True, show_lines=False)
    for state in STATES:
        heading = f"{state} {len(by_state[state]) or ''}"
        table.add_column(heading, style=_STYLES.get(state, ""), ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_row(*(Text("\n").join(by_state[state]) for state in STATES))
    return table


def rows(tasks: Sequence[pb.Task]) -> RenderableType:
    """How many are in which state, and one line a task."""
    counts = Counter(state_name(task.state) for task in tasks)
    heading = Text(" · ").join(
        Text(f"{state} {counts[state]}", style=_STYLES.get(state, "")) for state in STATES if counts[state]
    )
    table = Table(box=None, expand=True, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True)
    for task in tasks:
        state = state_name(task.state)
        style = _STYLES.get(state, "")
        table.add_row(task.id, Text(state, style=style), Text(task.title, style="bold"), _who(task))
    return Group(heading, table)


def state_name(state: "pb.TaskState.ValueType") -> str:
    """`DOING` for TASK_STATE_DOING."""
    return pb.TaskState.Name(state).removeprefix("TASK_STATE_")


def gate_name(gate: "pb.Gate.ValueType") -> str:
    """`Security` for GATE_SECURITY, `RevOps` for GATE_REVOPS."""
    name = pb.Gate.Name(gate).removeprefix("GATE_")
    return {"REVOPS": "RevOps"}.get(name, name.capitalize())


def _who(task: pb.Task) -> str:
    group = task.approver_group if task.state == pb.TASK_STATE_APPROVAL else task.assigned_group
    rework = f" ↺{task.rework_count}" if task.rework_count else ""
    return f"{group or '–'} · {gate_name(task.gate)}{rework}"
