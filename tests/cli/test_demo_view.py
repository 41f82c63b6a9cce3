"""What the demo shows fits the terminal, can be pasted from, and says how to go on."""

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_cli import scenario, trace_view
from nanoclaw_cli.board import Board
from nanoclaw_cli.collector import Span
from nanoclaw_cli.ending import Ending
from nanoclaw_cli.invocation import DEFAULT_HOME, pasted
from nanoclaw_cli.stage import Processes
from nanoclaw_governance.tables import SLICE
from nanoclaw_store import Database

RUN = "demo-1121-172127"
STATES = [pb.TASK_STATE_DOING, pb.TASK_STATE_REVIEW, pb.TASK_STATE_APPROVAL, pb.TASK_STATE_BLOCKED, pb.TASK_STATE_DONE]


def played(*, same_state: bool = False, calling: bool = True) -> Board:
    """A board in the middle of the demo: five tasks, a call that waits, more facts than fit anywhere."""
    board = Board(headline=f"NanoClaw OS demo · data in /home/{'somebody/' * 12}var")
    board.services = dict.fromkeys(("governance", "broker", "gateway", "dispatcher"), "serving")
    for number, state in enumerate(STATES):
        state = pb.TASK_STATE_DONE if same_state else state
        task = pb.Task(id=f"{RUN}-{number}", title=f"Write the release notes {number}", state=state, rework_count=1)
        task.assigned_group, task.approver_group, task.gate = "developer", "security", pb.GATE_SECURITY
        board.tasks[task.id] = task
    board.facts.extend(f"{RUN}-1  DOING → REVIEW  group:developer  fact {number} {'x' * 90}" for number in range(100))
    if calling:
        board.call_title = "http.post waits: votes needed 2"
        board.call = (
            'POST http://127.0.0.1:45469/announcements\n\n{\n  "audience": "customers",\n  "title": "Signup"\n}'
        )
    return board


def drawn(what: object, width: int, height: int = 25) -> list[str]:
    """The lines that a terminal of that size is given."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 20), (100, 30), (200, 60)])
@pytest.mark.parametrize("same_state", [False, True])
def test_the_board_fits_its_terminal(width: int, height: int, same_state: bool) -> None:
    """No line is cut off below, none is too wide; every task is there with its state, and so is the last fact."""
    lines = drawn(played(same_state=same_state), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("Write ") == len(STATES) or width < 80
    assert "DONE" in text
    assert text.splitlines()[-2].startswith(f"│ {RUN}-1  DOING → REVIEW")
    assert '"audience": "customers"' in text


def test_ids_on_a_small_board_are_whole() -> None:
    """80 columns: each task's line begins with what can be pasted."""
    lines = drawn(played(), 80, 24)
    for number in range(len(STATES)):
        assert any(line.startswith(f"{RUN}-{number} ") for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
async def test_the_ending_gives_whole_ids_and_says_how_to_go_on(width: int, home: Path) -> None:
    """Each id on a line of its own beginning, each next command on one line."""
    await (await Database.open(home / "store" / "nanoclaw.db", SLICE)).close()
    console = Console(file=io.StringIO(), width=width, color_system=None)
    stage = Processes(home, dict(os.environ, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"))
    first = pb.Task(id=f"{RUN}-1", traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
    await Ending().show(stage, scenario.stories(RUN, "http://127.0.0.1:1"), first, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    for number in range(1, 7):
        assert len([line for line in lines if line.startswith(f"{RUN}-{number}  ")]) == 1
    commands = [line.strip().partition("  # ")[0] for line in lines if "  # " in line]
    assert commands == [command for command, _ in stage.go_on(first.id)]
    assert commands[2].endswith(f"task history {RUN}-1")


def test_a_command_to_paste_finds_the_same_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `nanoclaw` is not on PATH by its path, and with --home unless that is where it looks anyway."""
    installed = Path(sys.executable).parent / "nanoclaw"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(installed.parent))
    assert pasted(DEFAULT_HOME.absolute()) == "nanoclaw"
    monkeypatch.setenv("PATH", "/nowhere")
    assert pasted(tmp_path / "a home") == f"{installed} --home '{tmp_path}/a home'"
    monkeypatch.chdir(installed.parents[1])
    assert pasted(DEFAULT_HOME.absolute()) == "bin/nanoclaw"


def test_the_trace_tells_who() -> None:
    """Each fact with its principal; an RPC by its own name, without the package's."""
    move = Span(
        "nanoclaw-governance", "task.transition", "a", "1", "", 0, 1, {"nanoclaw.principal": "operator:founder"}
    )
    rpc = Span("nanoclaw-broker", "nanoclaw.broker.v1.BrokerService/Call", "a", "2", "1", 0, 1, {})
    shown = "\n".join(drawn(trace_view.tree([move, rpc], "trace"), 120))
    assert "task.transition  +0 ms, 0.0 ms  by=operator:founder" in shown
    assert " BrokerService/Call " in shown
