"""The reference reviewer: judges a gate by the context pack, with a checklist that stands below, and decides.

1. The work has a summary.
2. Evidence is there where the task, or its plan (`review: require evidence`), asks for it.
3. The summary mentions what the plan wants mentioned.
4. Every item of the definition of done is done.
5. The plan does not want it sent back this time.
What fails is sent back (APPROVAL to REVIEW) with every reason at once. A call whose effect is not known, and a reason
to block in the plan, go to a person (BLOCKED). Otherwise: approved, and DONE.
"""

from collections.abc import Mapping
from typing import Any

from nanoclaw_agent.client import Client
from nanoclaw_agent.executor import GaveUp, insist
from nanoclaw_agent.plan import Plan, read_plan
from nanoclaw_agent.prompt import Assignment


class Reviewer:
    """One review of one assignment."""

    def __init__(self, client: Client, assignment: Assignment) -> None:
        self._client = client
        self._assignment = assignment
        self._context = assignment.context
        self._task: Mapping[str, Any] = {**assignment.task, **_member(assignment.context, "task", {})}

    def run(self) -> str:
        """Decides; answers what was decided. Raises GaveUp."""
        if not self._context:
            raise GaveUp("the prompt holds no context pack, so there is nothing to judge by")
        try:
            plan = read_plan(self._task)
        except ValueError as error:
            return self._block(str(error))
        if reasons := self._for_a_person(plan):
            return self._block("; ".join(reasons))
        if reasons := self._shortcomings(plan):
            return self._move("REVIEW", "; ".join(reasons), "send the task back")
        return self._approve()

    def _for_a_person(self, plan: Plan) -> list[str]:
        reasons = [step.text for step in plan.review if step.kind == "block"]
        for call in _member(self._context, "external_calls", []):
            if str(_member(call, "state", "")).endswith("UNKNOWN"):
                name = f"{_member(call, 'provider', '')}.{_member(call, 'action', '')}"
                reasons.append(f"nobody knows whether {name} ({_member(call, 'call_id', '')}) took effect")
        return reasons

    def _shortcomings(self, plan: Plan) -> list[str]:
        summary = str(_member(self._context, "execution_summary", "") or _member(self._task, "review_summary", ""))
        evidence = _member(self._context, "evidence", []) or _member(self._task, "evidence", [])
        wanted = [step for step in plan.review if step.kind == "require"]
        found = []
        if not summary.strip():
            found.append("there is no summary of the work")
        if not evidence and (
            _member(self._task, "evidence_required", False) or any(step.path == "evidence" for step in wanted)
        ):
            found.append("evidence is required, and there is none")
        found += [
            f"the summary does not mention {step.text}"
            for step in wanted
            if step.path == "mention" and step.text.lower() not in summary.lower()
        ]
        found += [
            f"not done: {_member(item, 'text', '')}"
            for item in _member(self._task, "checklist", [])
            if not _member(item, "done", False)
        ]
        sent_back = self._sent_back()
        found += [
            step.text for step in plan.review if step.kind == "send_back" and (not step.times or sent_back < step.times)
        ]
        return found

    def _sent_back(self) -> int:
        """How often the task was reworked, by its own count or else by what of its history the pack holds."""
        back = [
            fact
            for fact in _member(self._context, "activities", [])
            if str(_member(fact, "from_state", "")).endswith("APPROVAL")
            and str(_member(fact, "to_state", "")).endswith("REVIEW")
        ]
        return max(int(_member(self._task, "rework_count", 0)), len(back))

    def _approve(self) -> str:
        task_id = self._assignment.task_id
        gate = self._assignment.gate
        answer = self._client.approve(task_id, gate, "the checklist of the reference reviewer holds")
        if answer.ok:
            answer = self._client.transition(task_id, "DONE", f"{gate} gate approved")
        if answer.ok:
            return f"approved the {gate} gate of {task_id}"
        if answer.may_pass or answer.code == "STALE_ATTEMPT":
            raise GaveUp(f"could not approve: {answer.why}")
        return self._block(f"the {gate} gate could not be passed: {answer.why}")

    def _block(self, reason: str) -> str:
        return self._move("BLOCKED", reason, "block the task")

    def _move(self, state: str, reason: str, what: str) -> str:
        insist(self._client.transition(self._assignment.task_id, state, reason), what)
        return f"moved {self._assignment.task_id} to {state}: {reason}"


def _member(value: Any, name: str, default: Any) -> Any:
    """A member under its proto name or its JSON name, or the default."""
    if not isinstance(value, dict):
        return default
    head, *rest = name.split("_")
    found = value.get(name, value.get(head + "".join(part.capitalize() for part in rest)))
    return default if found is None else found
