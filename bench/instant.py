"""A runtime whose agents only hand in, approve and finish, through their files, in the bench's own process."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

from bench.answers import Answers
from nanoclaw_agent.prompt import REVIEWER, Assignment
from nanoclaw_core.clock import to_text, utc_now
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.runtime import Isolation, Observed, RunState


class InstantRuntime:
    """Every attempt is a coroutine."""

    name = "process"
    isolation = Isolation.NONE

    def __init__(self) -> None:
        self._specs: dict[str, AttemptSpec] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count()
        self._answers: Answers

    async def open(self) -> None:
        """Begins to listen for answers."""
        self._answers = Answers()

    async def close(self) -> None:
        """Ends that."""
        await self._answers.close()

    def has(self, attempt_id: str) -> bool:
        """Whether it was created."""
        return attempt_id in self._specs

    async def create(self, spec: AttemptSpec) -> Observed:
        """Keeps the spec."""
        self._specs.setdefault(spec.attempt_id, spec)
        return await self.inspect(spec.attempt_id)

    async def start(self, attempt_id: str) -> Observed:
        """Runs the agent."""
        if attempt_id not in self._runs:
            self._runs[attempt_id] = asyncio.create_task(self._agent(self._specs[attempt_id]))
        return await self.inspect(attempt_id)

    async def inspect(self, attempt_id: str) -> Observed:
        """What it is now."""
        if attempt_id not in self._specs:
            return Observed(attempt_id, RunState.ABSENT)
        run = self._runs.get(attempt_id)
        if run is None:
            return Observed(attempt_id, RunState.CREATED)
        now = to_text(utc_now())
        if not run.done():
            return Observed(attempt_id, RunState.RUNNING, started_at=now)
        return Observed(attempt_id, RunState.EXITED, 0 if run.exception() is None else 1, now, now)

    async def wait(self, attempt_id: str) -> Observed:
        """Until it has ended."""
        if run := self._runs.get(attempt_id):
            await asyncio.wait([run])
        return await self.inspect(attempt_id)

    async def stop(self, attempt_id: str, grace: float) -> Observed:
        """Waits: it ends by itself."""
        return await self.wait(attempt_id)

    async def last_lines(self, attempt_id: str) -> str:
        """It writes none."""
        return ""

    async def last_output_at(self, attempt_id: str) -> str:
        """It never does."""
        return ""

    async def remove(self, attempt_id: str) -> None:
        """Forgets it."""
        self._specs.pop(attempt_id, None)
        self._runs.pop(attempt_id, None)

    async def list(self) -> list[Observed]:
        """All."""
        return [await self.inspect(attempt_id) for attempt_id in self._specs]

    async def _agent(self, spec: AttemptSpec) -> None:
        assignment = Assignment.parse(json.loads(spec.stdin)["prompt"])
        assert assignment is not None
        if assignment.role == REVIEWER:
            approval = {"type": "gov_approve", "taskId": spec.task_id, "gate_type": assignment.gate}
            await self._ask(spec.mailbox, approval)
            await self._ask(spec.mailbox, {"type": "gov_transition", "taskId": spec.task_id, "toState": "DONE"})
        else:
            move = {"type": "gov_transition", "taskId": spec.task_id, "toState": "REVIEW", "reason": "done"}
            await self._ask(spec.mailbox, move)
        self._answers.forget(spec.mailbox / "responses")

    async def _ask(self, mailbox: Path, request: dict[str, Any]) -> None:
        name = f"bench-{next(self._numbers)}"
        answered = self._answers.expect(mailbox / "responses", f"{name}.json")
        temporary = mailbox / "tasks" / f"{name}.tmp"
        temporary.write_text(json.dumps({**request, "request_id": name}))
        temporary.rename(mailbox / "tasks" / f"{name}.json")
        await answered
        answer = json.loads((mailbox / "responses" / f"{name}.json").read_text())
        assert answer["status"] == "executed", answer
