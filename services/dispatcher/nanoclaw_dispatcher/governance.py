"""Governance and the gateway as the dispatcher calls them: proto at the edge, our own Task inside."""

import sqlite3
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from google.protobuf.json_format import MessageToDict

from nanoclaw.gateway.v1 import gateway_pb2 as gateway_pb
from nanoclaw.gateway.v1 import gateway_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.notes import Place
from nanoclaw_dispatcher.task import Task, TaskState

IN_FLIGHT = (pb.TASK_STATE_READY, pb.TASK_STATE_DOING, pb.TASK_STATE_REVIEW, pb.TASK_STATE_APPROVAL)
PASSING = frozenset({Kind.UNAVAILABLE, Kind.DEADLINE, Kind.EXHAUSTED, Kind.INTERNAL, Kind.UNAUTHENTICATED})
"""Failures that are not about the request: it may pass later as it is."""
_GATES = {pb.GATE_SECURITY: "Security", pb.GATE_REVOPS: "RevOps", pb.GATE_CLAIMS: "Claims", pb.GATE_PRODUCT: "Product"}
_STATES = {value: TaskState(name.removeprefix("TASK_STATE_")) for name, value in pb.TaskState.items() if value}
_NUMBERS = {state: value for value, state in _STATES.items()}
_PAGE = 500


def passes_later(error: NanoclawError) -> bool:
    """Whether the same request may succeed later."""
    return error.kind in PASSING


def gate_word(gate: "pb.Gate.ValueType") -> str:
    """The gate in the words of the files; empty for none."""
    return _GATES.get(gate, "")


class Governance:
    """What the dispatcher asks of governance. Errors are NanoclawErrors of the wire."""

    def __init__(self, stub: "governance_pb2_grpc.GovernanceServiceAsyncStub") -> None:
        self._stub = stub
        self._products: dict[str, bool] = {}

    async def get(self, task_id: str) -> pb.Task:
        """The task as it is now. Raises TASK_NOT_FOUND."""
        return (await self._stub.GetTask(pb.GetTaskRequest(task_id=task_id))).task

    async def read(self, task_id: str) -> tuple[Task, pb.Task]:
        """The same, and our view of it. Raises TASK_NOT_FOUND."""
        return await self._both(await self.get(task_id))

    async def in_flight(self) -> AsyncIterator[tuple[Task, pb.Task]]:
        """Every task that the rules might have to do with."""
        token = ""
        while True:
            answer = await self._stub.ListTasks(
                pb.ListTasksRequest(states=IN_FLIGHT, page_size=_PAGE, page_token=token), timeout=30
            )
            for message in answer.tasks:
                yield await self._both(message)
            token = answer.next_page_token
            if not token:
                return

    async def move(
        self,
        task: str,
        to: TaskState,
        *,
        request_id: str,
        version: int,
        reason: str,
        bind: pb.AttemptBinding | None = None,
    ) -> pb.Task:
        """Transitions the task, and binds an attempt with it; with the same request_id it happens once.

        Raises what governance refuses it with.
        """
        answer = await self._stub.TransitionTask(
            pb.TransitionTaskRequest(
                request_id=request_id,
                task_id=task,
                to_state=_NUMBERS[to],
                reason=reason,
                expected_version=version,
                bind=bind,
            )
        )
        return answer.task

    async def bind(self, task: str, group: str, attempt: str, fence: int) -> tuple[Task, pb.Task]:
        """Fences every earlier attempt of the group on the task; answers the task as it is now."""
        answer = await self._stub.BindAttempt(
            pb.BindAttemptRequest(
                request_id=f"{attempt}:bind", task_id=task, group=group, attempt_id=attempt, fence=fence
            )
        )
        return await self._both(answer.task)

    async def context_pack(self, task_id: str) -> dict[str, Any]:
        """What a reviewer needs, as JSON."""
        answer = await self._stub.GetContextPack(pb.GetContextPackRequest(task_id=task_id), timeout=10)
        return MessageToDict(answer, preserving_proto_field_name=True)

    def watch(self, after: Place | None) -> AsyncIterable[pb.WatchTasksResponse]:
        """The log with its tasks from a place on, and heartbeats; None: from its head, named by a first heartbeat."""
        cursor = pb.Cursor(epoch=after.epoch, seq=after.seq) if after is not None else None
        stream: AsyncIterable[pb.WatchTasksResponse] = self._stub.WatchTasks(
            pb.WatchTasksRequest(cursor=cursor, with_tasks=True)
        )
        return stream

    def forget_products(self) -> None:
        """One of them changed."""
        self._products.clear()

    async def as_task(self, message: pb.Task) -> Task:
        """Our view of a task. Raises UNKNOWN_STATE for a state that we do not know."""
        state = _STATES.get(message.state)
        if state is None:
            raise NanoclawError(
                Kind.PRECONDITION,
                "UNKNOWN_STATE",
                f"task {message.id} is in state {message.state}",
                next_step="run a dispatcher as new as governance",
            )
        return Task(
            id=message.id,
            version=message.version,
            state=state,
            previous_state=_STATES.get(message.previous_state),
            round=message.round,
            rework_count=message.rework_count,
            assigned_group=message.assigned_group,
            gate=gate_word(message.gate),
            human_gate=message.human_gate,
            approver_group=message.approver_group,
            priority=(message.priority or pb.PRIORITY_P2) - pb.PRIORITY_P0,
            startable=not message.product_id or await self._active(message.product_id),
            reason=message.state_reason,
            product_id=message.product_id,
            traceparent=message.traceparent,
        )

    async def _both(self, message: pb.Task) -> tuple[Task, pb.Task]:
        return await self.as_task(message), message

    async def _active(self, product_id: str) -> bool:
        known = self._products.get(product_id)
        if known is None:
            product = (await self._stub.GetProduct(pb.GetProductRequest(product_id=product_id))).product
            known = self._products[product_id] = product.status == pb.PRODUCT_STATUS_ACTIVE
        return known


class Mailboxes:
    """What the dispatcher asks of the gateway."""

    def __init__(self, stub: "gateway_pb2_grpc.GatewayServiceAsyncStub") -> None:
        self._stub = stub

    async def open(self, attempt: sqlite3.Row) -> str:
        """Makes the attempt's mailbox; answers its absolute path. Idempotent."""
        answer = await self._stub.OpenMailbox(
            gateway_pb.OpenMailboxRequest(
                request_id=f"{attempt['id']}:open",
                attempt_id=attempt["id"],
                group=attempt["group_name"],
                task_id=attempt["task_id"],
                fence=attempt["fence"],
                traceparent=attempt["traceparent"],
            )
        )
        return answer.path

    async def close(self, attempt_id: str) -> None:
        """Has everything decided that the attempt wrote. Idempotent; a mailbox that never was is no error."""
        try:
            await self._stub.CloseMailbox(
                gateway_pb.CloseMailboxRequest(request_id=f"{attempt_id}:close", attempt_id=attempt_id), timeout=30
            )
        except NanoclawError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
