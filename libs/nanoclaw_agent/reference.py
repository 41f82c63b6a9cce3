"""The built-in reference agents, `python -m nanoclaw_agent.reference`: one program, a role by the task's state.

Started by the dispatcher for a group (developer, security, main): reads the opening line on stdin, works on the task or
reviews it, and exits 0 once the task has moved; 1 with one clear last line on stderr where it could not, so that the
dispatcher tries again; 143 after SIGTERM.
"""

import signal
import sys
from types import FrameType

from nanoclaw_agent.client import Client
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.executor import Executor, GaveUp
from nanoclaw_agent.prompt import REVIEWER, Assignment, role_of
from nanoclaw_agent.reviewer import Reviewer
from nanoclaw_agent.session import Opening, print_result


class _Stopped(BaseException):
    """SIGTERM came."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def main() -> int:
    """Runs once; answers the exit code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        result = run(Client(Environment.read()), sys.stdin.readline())
    except _Stopped:
        return _failed("stopped by SIGTERM", 143)
    except GaveUp as error:
        return _failed(str(error), 1)
    except Exception as error:  # a defect of ours: still one line that says so, not a page
        return _failed(f"{type(error).__name__}: {error}", 1)
    print_result(sys.stdout, "success", result)
    return 0


def run(client: Client, line: str) -> str:
    """What the agent does with its opening line (empty: by environment and snapshot). Raises GaveUp."""
    assignment = _assignment(client, line)
    if assignment.role == REVIEWER:
        return Reviewer(client, assignment).run()
    return Executor(client, assignment).run()


def _assignment(client: Client, line: str) -> Assignment:
    task_id = client.environment.task_id
    if line.strip():
        try:
            opening = Opening.read(line)
        except ValueError as error:
            raise GaveUp(f"can't read the opening line: {error}") from None
        if assignment := Assignment.parse(opening.prompt):
            return assignment
        task_id = opening.task_id or task_id
    task = client.task(task_id)
    if task is None:
        raise GaveUp(f"the prompt names no task, and the snapshot holds no task {task_id!r}")
    return Assignment(task, role_of(task), gate=str(task.get("gate") or ""))


def _failed(message: str, code: int) -> int:
    line = " ".join(message.split())
    print_result(sys.stdout, "error", line)
    print(f"nanoclaw agent: {line}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
