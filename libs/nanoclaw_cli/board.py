"""The board: tasks by state as columns, what each waits for, and who works, for the live view of a terminal."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nanoclaw.governance.v1 import governance_pb2 as pb

STATES = ("INBOX", "TRIAGED", "READY", "DOING", "REVIEW", "APPROVAL", "DONE", "BLOCKED")
_STYLES = {"DOING": "green", "REVIEW": "yellow", "APPROVAL": "magenta", "DONE": "bold green", "BLOCKED": "bold red"}


@dataclass
class Board:
    """What the live view shows; `render` makes a Rich renderable of it.

    call: what a call would do that people vote on. call_title: where it stands.
    """

    services: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, pb.Task] = field(default_factory=dict)
    facts: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    headline: str = ""
    call: str = ""
    call_title: str = ""

    def render(self) -> RenderableType:
        """The whole view."""
        services = Text("  ").join(
            Text.assemble((name, "bold"), " ", (what, "green" if what == "serving" else "yellow"))
            for name, what in self.services.items()
        )
        return Group(
            Text(self.headline, style="bold"),
            services,
            columns(self.tasks.values()),
            *([Panel(Text(self.call), title=self.call_title, box=box.ROUNDED)] if self.call else []),
            Panel(Text("\n".join(self.facts), no_wrap=True, overflow="ellipsis"), title="log", box=box.ROUNDED),
        )


def columns(tasks: Iterable[pb.Task]) -> Table:
    """One column a state, one card a task."""
    by_state: Mapping[str, list[Text]] = {state: [] for state in STATES}
    for task in tasks:
        by_state[state_name(task.state)].append(_card(task))
    table = Table(box=box.ROUNDED, expand=True, show_lines=False)
    for state in STATES:
        table.add_column(f"{state} {len(by_state[state]) or ''}", style=_STYLES.get(state, ""), ratio=1)
    table.add_row(*(Text("\n").join(by_state[state]) for state in STATES))
    return table


def state_name(state: "pb.TaskState.ValueType") -> str:
    """`DOING` for TASK_STATE_DOING."""
    return pb.TaskState.Name(state).removeprefix("TASK_STATE_")


def gate_name(gate: "pb.Gate.ValueType") -> str:
    """`Security` for GATE_SECURITY, `RevOps` for GATE_REVOPS."""
    name = pb.Gate.Name(gate).removeprefix("GATE_")
    return {"REVOPS": "RevOps"}.get(name, name.capitalize())


def _card(task: pb.Task) -> Text:
    who = task.approver_group if task.state == pb.TASK_STATE_APPROVAL else task.assigned_group
    rework = f" ↺{task.rework_count}" if task.rework_count else ""
    return Text.assemble((task.title, "bold"), f"\n{who or '–'} · {gate_name(task.gate)}{rework}\n")
