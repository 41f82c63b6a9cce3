"""The person outside, while everything is hurt: asks again until answered, and remembers what was confirmed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.errors import Kind, NanoclawError

A = TypeVar("A")
Governance: TypeAlias = "governance_pb2_grpc.GovernanceServiceAsyncStub"


@dataclass
class Founder:
    """prefix: of the ids of the tasks that are looked at. told: id → version that was confirmed, and its state."""

    prefix: str = ""
    told: dict[str, tuple[int, str]] = field(default_factory=dict)

    async def insist(self, call: Callable[[], Awaitable[A]]) -> A:
        """Sends the same request until somebody answers it."""
        while True:
            try:
                return await call()
            except NanoclawError as error:
                if error.kind not in (Kind.UNAVAILABLE, Kind.DEADLINE):
                    raise
                await asyncio.sleep(0.05)

    def acknowledged(self, task: pb.Task) -> None:
        """Keeps the newest version that was confirmed."""
        self.told[task.id] = (task.version, pb.TaskState.Name(task.state))

    async def load(self, governance: Governance, request: pb.CreateTaskRequest) -> None:
        """Creates a task and makes it ready."""
        self.acknowledged((await self.insist(lambda: governance.CreateTask(request, timeout=5))).task)
        for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
            move = pb.TransitionTaskRequest(request_id=f"{request.id}-{state}", task_id=request.id, to_state=state)
            self.acknowledged((await self.insist(lambda move=move: governance.TransitionTask(move, timeout=5))).task)  # type: ignore[misc]

    async def settle(self, governance: Governance, expected: int) -> dict[str, pb.Task]:
        """Unblocks what agents blocked, until so many tasks are DONE or were blocked by the dispatcher."""
        while True:
            tasks = await self.tasks(governance)
            open_tasks = 0
            for task in tasks.values():
                if task.state == pb.TASK_STATE_BLOCKED and task.blocked_by != "service:dispatcher":
                    move = pb.TransitionTaskRequest(
                        request_id=f"{task.id}-unblock-{task.version}",
                        task_id=task.id,
                        to_state=task.blocked_from if task.blocked_from == pb.TASK_STATE_DOING else pb.TASK_STATE_READY,
                        reason="go on",
                        expected_version=task.version,
                    )
                    try:
                        await self.insist(lambda move=move: governance.TransitionTask(move, timeout=5))  # type: ignore[misc]
                    except NanoclawError as error:
                        if error.reason != "STALE_VERSION":
                            raise
                    open_tasks += 1
                elif task.state not in (pb.TASK_STATE_DONE, pb.TASK_STATE_BLOCKED):
                    open_tasks += 1
            if not open_tasks and len(tasks) == expected:
                return tasks
            await asyncio.sleep(0.5)

    async def tasks(self, governance: Governance) -> dict[str, pb.Task]:
        """Every task, by its id."""
        found: dict[str, pb.Task] = {}
        token = ""
        while True:
            request = pb.ListTasksRequest(page_size=500, page_token=token)
            answer = await self.insist(lambda request=request: governance.ListTasks(request, timeout=5))  # type: ignore[misc]
            found |= {task.id: task for task in answer.tasks if task.id.startswith(self.prefix)}
            token = answer.next_page_token
            if not token:
                return found
