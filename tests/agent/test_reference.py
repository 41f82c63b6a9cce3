"""The reference agent as the dispatcher starts it: a process, a line on stdin, files, an exit code."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_agent.environment import Environment
from nanoclaw_agent.prompt import EXECUTOR, REVIEWER, Assignment
from nanoclaw_agent.session import Opening, parse_result

TASK = {"id": "t1", "title": "Fix login", "description": "", "state": "DOING", "gate": "Security"}


@pytest.fixture
def variables(ipc: Path, tmp_path: Path) -> dict[str, str]:
    environment = Environment(str(ipc), str(tmp_path / "group"), "developer", "t1", "nc-0123-1")
    return {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | environment.variables()


class Agent:
    """A started reference agent."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanoclaw_agent.reference"],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def agent(variables: dict[str, str]) -> Iterator[Agent]:
    agent = Agent(variables)
    yield agent
    agent.process.kill()
    agent.process.communicate()


def opening(assignment: Assignment) -> str:
    return Opening(assignment.render(), group_folder="developer", task_id="t1", attempt="nc-0123-1").line()


def test_it_works_hands_in_and_exits_clean_while_stdin_stays_open(agent: Agent, host: Any) -> None:
    """One line is enough; the end of input is not waited for."""
    agent.tell(opening(Assignment(TASK, EXECUTOR)))
    code = agent.process.wait(timeout=20)
    _, out, err = agent.end()
    assert (code, err) == (0, "")
    assert [r["toState"] for r in host.of("gov_transition")] == ["REVIEW"]
    assert parse_result(out) == {"status": "success", "result": "noted it in work/t1.md"}


def test_it_reviews_when_it_is_told_to(agent: Agent, host: Any) -> None:
    """The same program for the approver's group."""
    agent.tell(opening(Assignment(TASK | {"state": "APPROVAL"}, REVIEWER, "", {"execution_summary": "did it"})))
    code, _, err = agent.end()
    assert (code, err) == (0, "")
    assert [(r["type"], r.get("gate_type")) for r in host.requests] == [
        ("gov_approve", "Security"),
        ("gov_transition", None),
    ]


def test_without_an_assignment_it_takes_the_task_from_the_snapshot(agent: Agent, host: Any) -> None:
    """Started with a plain prompt, by hand for instance."""
    host.snapshot("gov_pipeline", {"generatedAt": "x", "tasks": [TASK]})
    agent.tell(Opening("have a look", task_id="t1").line())
    assert agent.end()[0] == 0
    assert host.of("gov_transition")[0]["taskId"] == "t1"


FAILING = opening(Assignment(TASK | {"description": "do: fail no luck"}))


@pytest.mark.parametrize("line", ["{}\n", "\n", Opening("hello").line(), FAILING])
def test_a_failure_is_one_last_line_and_exit_code_1(agent: Agent, host: Any, line: str) -> None:
    """The dispatcher keeps the last lines; they must say it."""
    agent.tell(line)
    code, out, err = agent.end()
    assert code == 1
    assert err.startswith("nanoclaw agent: ")
    assert err.count("\n") == 1
    result = parse_result(out)
    assert result is not None
    assert result["status"] == "error"


def test_sigterm_ends_it_in_the_middle_of_a_wait(agent: Agent, host: Any) -> None:
    """A stop is obeyed at once, and told from a failure."""
    host.answer = lambda request: {"status": "executed"}
    agent.tell(opening(Assignment(TASK | {"description": "do: call json transform {}\ndo: wait 600"})))
    while not host.requests:
        assert agent.process.poll() is None
    agent.process.send_signal(signal.SIGTERM)
    code, _, err = agent.end()
    assert (code, err) == (143, "nanoclaw agent: stopped by SIGTERM\n")
    assert host.of("gov_transition") == []


def test_it_loads_nothing_that_costs_start_up_time() -> None:
    """A small agent's start-up is its imports; these are the ones that would double it."""
    code = "import sys, nanoclaw_agent.reference; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    base = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"dataclasses", "inspect", "pathlib", "asyncio", "logging", "hashlib", "hmac", "ssl", "subprocess", "mcp"}
    assert heavy & (set(loaded) - set(base)) == set()
