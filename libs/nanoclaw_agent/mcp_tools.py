"""The tools of the MCP server that are always the same: each is one request file, with typed parameters.

The docstrings are what a model reads.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from nanoclaw_agent.client import Client
from nanoclaw_agent.mcp_answer import Answer, answer

TaskType = Literal["EPIC", "FEATURE", "BUG", "SECURITY", "REVOPS", "OPS", "RESEARCH", "CONTENT", "DOC", "INCIDENT"]
State = Literal["INBOX", "TRIAGED", "READY", "DOING", "REVIEW", "APPROVAL", "DONE", "BLOCKED"]
Gate = Literal["None", "Security", "RevOps", "Claims", "Product"]
TaskId = Annotated[str, Field(description="the task's id")]

MAIN = "main"
MAIN_ONLY = frozenset({"gov_create", "gov_assign", "ext_grant", "ext_revoke"})
"""Not listed for other groups, whose every call of them would be denied."""


class Tools:
    """Every tool, as a method of its name."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def all(self) -> list[Any]:
        """The methods that are tools."""
        return [getattr(self, name) for name in vars(type(self)) if not name.startswith("_") and name != "all"]

    def gov_create(
        self,
        title: str,
        task_type: TaskType,
        description: str | None = None,
        priority: Literal["P0", "P1", "P2", "P3"] | None = None,
        product: Annotated[str | None, Field(description="a product's name")] = None,
        product_id: str | None = None,
        scope: Literal["COMPANY", "PRODUCT"] | None = None,
        assigned_group: str | None = None,
        gate: Gate | None = None,
        metadata: dict[str, Any] | None = None,
        id: Annotated[str | None, Field(description="an id of your own choosing")] = None,
    ) -> Answer:
        """Creates a task in INBOX. For the main group."""
        response = self._client.create_task(
            title,
            task_type,
            description=description,
            priority=priority,
            product=product,
            product_id=product_id,
            scope=scope,
            assigned_group=assigned_group,
            gate=gate,
            metadata=metadata,
            id=id,
        )
        return answer(response)

    def gov_transition(
        self, task_id: TaskId, to_state: State, reason: str | None = None, expected_version: int | None = None
    ) -> Answer:
        """Moves a task: to REVIEW hands your work in (reason: what you did), to BLOCKED asks a person (reason: why).

        A reviewer moves it to DONE after gov_approve, or back to REVIEW with what has to change.
        """
        return answer(self._client.transition(task_id, to_state, reason, expected_version))

    def gov_approve(self, task_id: TaskId, gate_type: Gate, notes: str | None = None) -> Answer:
        """Approves a task's gate for what is there to be seen now. Never for work of your own group."""
        return answer(self._client.approve(task_id, gate_type, notes))

    def gov_assign(self, task_id: TaskId, assigned_group: str, executor: str | None = None) -> Answer:
        """Assigns the group that will work on a task. For the main group."""
        return answer(self._client.assign(task_id, assigned_group, executor))

    def list_tasks(self, state: State | None = None) -> Answer:
        """The tasks that you see, as of the last change."""
        tasks = [task for task in self._client.tasks() if state in (None, task.get("state"))]
        return Answer(status="executed", code="OK", data={"tasks": tasks}, summary=f"{len(tasks)} tasks")

    def ext_call(
        self,
        provider: str,
        action: str,
        params: dict[str, Any],
        task_id: Annotated[str | None, Field(description="the task that it is for")] = None,
        idempotency_key: Annotated[
            str | None, Field(description="the same key with the same params executes once, however often you ask")
        ] = None,
    ) -> Answer:
        """Does one thing in the outside world, through the broker; each action that you may has a tool of its own, too.

        Denied with APPROVAL_PENDING it waits for votes: ask again later with the same idempotency_key for the outcome.
        """
        return answer(self._client.call(provider, action, params, task_id=task_id, idempotency_key=idempotency_key))

    def ext_capabilities(
        self,
        provider: Annotated[str | None, Field(description="only this one, with its actions' schemas")] = None,
    ) -> Answer:
        """What you may call through the broker: providers, actions, levels, what is denied, and when grants end."""
        found = self._client.capabilities()
        grants = found.get("capabilities")
        listed = grants if isinstance(grants, list) else []
        shown = [_shown(grant, provider) for grant in listed if isinstance(grant, dict)]
        return Answer(status="executed", code="OK", data=found | {"capabilities": [one for one in shown if one]})

    def ext_grant(
        self,
        group_folder: Annotated[str, Field(description="the group that gets access")],
        provider: str,
        access_level: Annotated[int, Field(ge=0, le=3, description="1 read, 2 write, 3 what can't be repeated")],
        allowed_actions: list[str] | None = None,
        denied_actions: list[str] | None = None,
        requires_task_gate: Gate | None = None,
        product_id: str | None = None,
    ) -> Answer:
        """Grants a group access to a provider; granting again renews. For the main group, up to level 2."""
        response = self._client.grant(
            group_folder,
            provider,
            access_level,
            allowed_actions=allowed_actions,
            denied_actions=denied_actions,
            requires_task_gate=requires_task_gate,
            product_id=product_id,
        )
        return answer(response)

    def ext_revoke(self, group_folder: str, provider: str, product_id: str | None = None) -> Answer:
        """Ends a grant, in force for the next call. For the main group."""
        return answer(self._client.revoke(group_folder, provider, product_id=product_id))

    def ext_pending(self, task_id: Annotated[str | None, Field(description="of this task only")] = None) -> Answer:
        """The calls that wait for votes: what each would do (rendered), and its params_digest, which a vote names."""
        return answer(self._client.pending(task_id))

    def ext_approve(
        self,
        call_id: Annotated[str, Field(description="as ext_pending lists it")],
        params_digest: Annotated[str, Field(description="as ext_pending lists it: what you saw is what you vote for")],
        notes: str | None = None,
    ) -> Answer:
        """Votes for a call that can't be repeated safely. Never for one that your own group asked for, or executed.

        With the last vote that it takes it is carried out, and data.outcome says what came of it.
        """
        return answer(self._client.vote(True, call_id, params_digest, notes))

    def ext_reject(
        self,
        call_id: Annotated[str, Field(description="as ext_pending lists it")],
        params_digest: Annotated[str, Field(description="as ext_pending lists it")],
        notes: Annotated[str | None, Field(description="why not")] = None,
    ) -> Answer:
        """Votes against a call that waits, which ends it. Also for taking back what your own group asked for."""
        return answer(self._client.vote(False, call_id, params_digest, notes))

    def send_message(self, text: str, sender: str | None = None) -> Answer:
        """Leaves a message for the operator. A reply comes as a later prompt."""
        problem = self._client.message(text, sender=sender)
        return answer(problem) if problem else Answer(status="executed", code="OK", summary="left for the operator")

    def schedule_task(
        self,
        prompt: str,
        schedule_type: Literal["cron", "interval", "once"],
        schedule_value: Annotated[str, Field(description="a cron line, milliseconds, or a local time")],
        context_mode: Literal["group", "isolated"] = "group",
        target_jid: str | None = None,
    ) -> Answer:
        """Schedules a prompt."""
        response = self._client.request(
            "schedule_task",
            prompt=prompt,
            schedule_type=schedule_type,
            schedule_value=schedule_value,
            context_mode=context_mode,
            targetJid=target_jid,
        )
        return answer(response)

    def pause_task(self, task_id: TaskId) -> Answer:
        """Pauses a scheduled task."""
        return answer(self._client.request("pause_task", taskId=task_id))

    def resume_task(self, task_id: TaskId) -> Answer:
        """Resumes a paused scheduled task."""
        return answer(self._client.request("resume_task", taskId=task_id))

    def cancel_task(self, task_id: TaskId) -> Answer:
        """Cancels a scheduled task."""
        return answer(self._client.request("cancel_task", taskId=task_id))

    def runtime_query(
        self,
        question: Literal[
            "remaining_budget",
            "what_did_i_try",
            "allowed_skills",
            "last_outcome",
            "skills_for_goal",
            "why_did_step_fail",
            "next_steps",
        ],
        step: str | None = None,
        skill: str | None = None,
        goal: str | None = None,
    ) -> Answer:
        """Asks the runtime one typed question about your budget, skills and steps."""
        return answer(self._client.request("runtime_query", question=question, step=step, skill=skill, goal=goal))

    def runtime_simulate(self, plan: dict[str, Any], budget_cents: Annotated[int, Field(ge=0)]) -> Answer:
        """Says what a plan would cost, need and risk, before anything is done."""
        return answer(self._client.request("runtime_simulate", plan=plan, budget_cents=budget_cents))


def _shown(grant: dict[str, Any], provider: str | None) -> dict[str, Any] | None:
    """A grant; without the schemas where all providers are shown, which have them in the actions' own tools."""
    actions = grant.get("actions")
    if provider is None and isinstance(actions, dict):
        briefly = {
            name: {member: value for member, value in action.items() if member != "params_schema"}
            for name, action in actions.items()
            if isinstance(action, dict)
        }
        return grant | {"actions": briefly}
    return grant if provider in (None, grant.get("provider")) else None
