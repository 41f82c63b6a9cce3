"""What the broker asks of governance: the task that a call is for, its live approvals, a grant's product."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import grpc.aio

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_broker.facts import Task
from nanoclaw_core.errors import Kind, NanoclawError

TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 1.0
"""How old what governance said may be when a call is claimed on it."""
_TRIES = 3

_GATES = {
    pb.GATE_SECURITY: "Security",
    pb.GATE_REVOPS: "RevOps",
    pb.GATE_CLAIMS: "Claims",
    pb.GATE_PRODUCT: "Product",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A task as governance told it. at: when it was asked, on the monotonic clock."""

    task: Task
    at: float

    def fresh(self, now: float) -> bool:
        """Whether a call may still be claimed on it."""
        return now - self.at <= FRESH_SECONDS


class Tasks(Protocol):
    """Where tasks are read."""

    async def read(self, task_id: str, group: str, *, approvals: bool) -> Reading:
        """The task as `group` stands to it; with its live approvals if asked. Raises GOVERNANCE_UNAVAILABLE."""


class GovernanceTasks:
    """Reads tasks by RPC, as the service that we are."""

    def __init__(self, channel: grpc.aio.Channel, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stub = governance_pb2_grpc.GovernanceServiceStub(channel)
        self._monotonic = monotonic

    async def read(self, task_id: str, group: str, *, approvals: bool) -> Reading:
        """See Tasks. The approvals are of the very version that is answered."""
        for _ in range(_TRIES):
            at = self._monotonic()
            try:
                task = await self._task(task_id, group)
                if not approvals or not task.found:
                    return Reading(task, at)
                gates, version = await self._live_gates(task_id)
            except NanoclawError as error:
                raise _unavailable(str(error)) from error
            if version == task.version:
                return Reading(replace(task, live_gates=gates), at)
        raise _unavailable(f"task {task_id} changes faster than it can be read")

    async def product(self, named: str) -> str:
        """The id of a product that is named by its id or its name. Raises PRODUCT_NOT_FOUND, GOVERNANCE_UNAVAILABLE."""
        try:
            request = pb.GetProductRequest(product_id=named)
            response: pb.GetProductResponse = await self._stub.GetProduct(request, timeout=TIMEOUT_SECONDS)
        except NanoclawError as error:
            if error.kind is Kind.NOT_FOUND:
                raise
            raise _unavailable(str(error), "product") from error
        return response.product.id

    async def _task(self, task_id: str, group: str) -> Task:
        try:
            request = pb.GetTaskRequest(task_id=task_id)
            response: pb.GetTaskResponse = await self._stub.GetTask(request, timeout=TIMEOUT_SECONDS)
        except NanoclawError as error:
            if error.kind is Kind.NOT_FOUND:
                return Task(task_id, found=False)
            raise
        return as_task(response.task, group)

    async def _live_gates(self, task_id: str) -> tuple[frozenset[str], int]:
        request = pb.ListApprovalsRequest(task_id=task_id, live_only=True, page_size=100)
        response: pb.ListApprovalsResponse = await self._stub.ListApprovals(request, timeout=TIMEOUT_SECONDS)
        return frozenset(_GATES[one.gate] for one in response.approvals if one.gate in _GATES), response.task_version


def as_task(task: pb.Task, group: str) -> Task:
    """The rule's view of governance's task."""
    return Task(
        id=task.id,
        version=task.version,
        state=pb.TaskState.Name(task.state).removeprefix("TASK_STATE_"),
        scope="PRODUCT" if task.scope == pb.SCOPE_PRODUCT else "COMPANY",
        product_id=task.product_id,
        assigned_group=task.assigned_group,
        approver_group=task.approver_group,
        gate=_GATES.get(task.gate, ""),
        executors=frozenset(task.executors),
        bound_attempt=next((bound.attempt_id for bound in task.attempts if bound.group == group), ""),
    )


def _unavailable(why: str, what: str = "task") -> NanoclawError:
    return NanoclawError(
        Kind.UNAVAILABLE, "GOVERNANCE_UNAVAILABLE", f"the {what} can't be read: {why}", next_step="send it again"
    )
