"""The reference executor: follows its task's plan, notes what it did, hands the work in."""

import json
import time
import zlib
from collections.abc import Callable

from nanoclaw_agent.client import Client
from nanoclaw_agent.folder import Folder
from nanoclaw_agent.plan import Step, read_plan
from nanoclaw_agent.prompt import Assignment
from nanoclaw_agent.response import FAILED, TIMEOUT, Response

SUMMARY_LIMIT = 4000
VOTE_PAUSE = 2.0
"""Seconds between two questions whether a call has got its votes."""
VOTE_PATIENCE = 900.0
"""Seconds that an agent waits for votes before it asks a person; the task then moves, and with it the call is void."""
_VOTED_DOWN = frozenset({"APPROVAL_EXPIRED", "APPROVAL_VOID", "APPROVAL_REJECTED"})


class GaveUp(Exception):
    """The agent can't finish; its message is the last line that it writes. The dispatcher tries again."""


class Blocked(Exception):
    """A person has to decide; its message is the reason that the task is blocked with."""


class Executor:
    """One run of the executor for one assignment."""

    def __init__(self, client: Client, assignment: Assignment, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._assignment = assignment
        self._folder = Folder(client.environment.group_dir)
        self._sleep = sleep
        self._done: list[str] = []
        self._summary = ""
        self._memory = self._folder.recall(assignment.task_id)

    def run(self) -> str:
        """Works until the task has moved; answers what became of it. Raises GaveUp."""
        try:
            try:
                self._work()
            except Blocked as reason:
                insist(self._client.transition(self._assignment.task_id, "BLOCKED", str(reason)), "block the task")
                self._remember_block(str(reason))
                return f"blocked: {reason}"
        except OSError as error:
            raise GaveUp(f"the group's folder can't be written: {error}") from None
        summary = self._handed_in()
        insist(self._client.transition(self._assignment.task_id, "REVIEW", summary), "hand the task in")
        return summary

    def _work(self) -> None:
        try:
            plan = read_plan(self._assignment.task)
        except ValueError as error:
            raise Blocked(str(error)) from None
        for number, step in enumerate(plan.work):
            self._follow(number, step)
        self._note()

    def _follow(self, number: int, step: Step) -> None:
        match step.kind:
            case "write":
                self._folder.write(step.path, step.text + "\n")
                self._done.append(f"wrote {step.path}")
            case "call":
                self._call(number, step)
            case "think":
                self._think(step)
            case "message":
                if (problem := self._client.message(step.text)) is not None:
                    raise GaveUp(f"no message could be left: {problem.why}")
                self._done.append("left a message")
            case "wait":
                self._sleep(float(step.text))
            case "summary":
                self._summary = step.text
            case "fail" if not step.times or self._client.environment.attempt_number <= step.times:
                raise GaveUp(step.text)
            case "block" if not step.times or self._blocks(step.text) < step.times:
                raise Blocked(step.text)

    def _call(self, number: int, step: Step) -> None:
        provider, action = step.target
        # The same in every attempt and round: whatever happens to this agent, the effect happens once.
        digest = zlib.crc32(json.dumps(step.params, sort_keys=True).encode())
        key = f"{self._assignment.task_id}:{number}:{provider}.{action}:{digest:08x}"
        task_id, again = self._assignment.task_id, self._again(key)
        key_now = f"{key}:{again}" if again else key
        answer = self._client.call(provider, action, step.params, task_id=task_id, idempotency_key=key_now)
        waited = 0.0
        while answer.code == "APPROVAL_PENDING" and waited < VOTE_PATIENCE:
            self._sleep(VOTE_PAUSE)  # moving the task would void the call
            waited += VOTE_PAUSE
            answer = self._client.call(provider, action, step.params, task_id=task_id, idempotency_key=key_now)
        if answer.ok:
            if step.path:
                self._folder.write(step.path, json.dumps(answer.data, ensure_ascii=False, indent=2) + "\n")
            self._done.append(f"called {provider}.{action}" + (f": {answer.summary}" if answer.summary else ""))
        elif answer.may_pass:
            raise GaveUp(f"{provider}.{action}: {answer.why}")
        elif step.lenient:
            self._done.append(f"{provider}.{action} was {answer.status}: {answer.code}")
        else:
            # It did not happen, so once a person lets the task go on it may be tried under another key; under this one
            # the broker would give the recorded answer for ever. Of an unknown effect nobody can say that.
            it_is_over = answer.status in (FAILED, TIMEOUT) or answer.code in _VOTED_DOWN
            if it_is_over and answer.code != "EFFECT_UNKNOWN":
                self._memory["again"] = {**self._memory.get("again", {}), key: again + 1}
            raise Blocked(f"{provider}.{action} was {answer.status}: {answer.why}")

    def _think(self, step: Step) -> None:
        from nanoclaw_agent.model import Model  # at the first thought: most agents do without its imports

        name, _ = step.target
        answer = Model(name, self._client.environment.relay_socket, self._sleep).ask(step.text)
        if not answer.ok:
            if answer.code == "RELAY_UNAVAILABLE":
                raise GaveUp(f"{name}: {answer.why}")
            raise Blocked(f"{name} was {answer.status}: {answer.why}")
        if step.path:
            self._folder.write(step.path, str(answer.data) + "\n")
        self._done.append(f"asked {name}" + (f", kept in {step.path}" if step.path else ""))

    def _again(self, key: str) -> int:
        again = self._memory.get("again")
        found = again.get(key) if isinstance(again, dict) else 0
        return found if isinstance(found, int) else 0

    def _note(self) -> None:
        task, environment = self._assignment.task, self._client.environment
        lines = [f"# {task.get('title', '')} ({self._assignment.task_id}), {environment.attempt or 'by hand'}", ""]
        if self._assignment.reason:
            lines.append(f"Started again because: {self._assignment.reason}")
        lines += [f"- {what}" for what in self._done or ["read the task; nothing else was asked for"]]
        name = f"work/{self._assignment.task_id}.md"
        self._folder.append(name, "\n".join(lines) + "\n\n")
        self._done.append(f"noted it in {name}")

    def _handed_in(self) -> str:
        summary = self._summary or "; ".join(self._done)
        if self._assignment.reason:
            summary = f"addressed: {self._assignment.reason}; {summary}"
        return summary[:SUMMARY_LIMIT]

    def _blocks(self, reason: str) -> int:
        blocks = self._memory.get("blocks")
        return blocks.count(reason) if isinstance(blocks, list) else 0

    def _remember_block(self, reason: str) -> None:
        blocks = self._memory.get("blocks")
        self._memory["blocks"] = [*(blocks if isinstance(blocks, list) else []), reason]
        self._folder.remember(self._assignment.task_id, self._memory)


def insist(answer: Response, what: str) -> None:
    """Raises GaveUp where the answer is a no."""
    if not answer.ok:
        raise GaveUp(f"could not {what}: {answer.why}")
