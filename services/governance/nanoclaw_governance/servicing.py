"""What all RPCs stand on: the database, the policy, and how a mutation becomes one unit."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Caller
from nanoclaw_governance import contexts, names, spans, tasks, wire
from nanoclaw_governance.act import Act
from nanoclaw_governance.messages import TaskMessages
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.tables import REQUESTS
from nanoclaw_rpc import current_caller, current_trace
from nanoclaw_store import Database, Idempotency, Tx
from nanoclaw_telemetry import Telemetry, TraceContext

R = TypeVar("R", bound=Message)


class Servicing(governance_pb2_grpc.GovernanceServiceServicer):
    """The ground under the RPCs.

    list_calls: the broker's, for context packs. heartbeat_seconds: of WatchTasks. started_at: TEXT.
    """

    def __init__(
        self,
        database: Database,
        policy: Policy,
        telemetry: Telemetry,
        list_calls: contexts.ListCalls,
        *,
        heartbeat_seconds: float,
        started_at: str,
    ) -> None:
        self._database = database
        self._idempotency = Idempotency(database, REQUESTS)
        self._policy = policy
        self._policy_message = wire.policy_message(policy)
        self._telemetry = telemetry
        self._list_calls = list_calls
        self._heartbeat_seconds = heartbeat_seconds
        self._started_at = started_at
        self._messages = TaskMessages()
        self._watchers = 0
        self._verifying = asyncio.Lock()

    async def _write(self, request: Any, operate: Callable[[Tx, Act], R]) -> R:
        """Runs a mutation once for its request_id, and tells its facts once they are durable."""
        caller, trace, start_ns = current_caller(), current_trace(), time.time_ns()
        act = Act(caller, self._policy, request.request_id, trace.trace_id)

        def unit(tx: Tx) -> R:
            act.begin()
            return operate(tx, act)

        try:
            response = await self._idempotency.run(caller.principal, request, unit)
        except NanoclawError as refusal:
            if self._telemetry.enabled and refusal.kind in spans.DECIDED:
                self._tell_refusal(request, refusal, caller, trace, start_ns)
            raise
        spans.tell(self._telemetry, act, trace, start_ns)
        return response

    def _tell_refusal(
        self, request: Any, refusal: NanoclawError, caller: Caller, trace: TraceContext, start_ns: int
    ) -> None:
        task_id, task = getattr(request, "task_id", ""), None
        with contextlib.suppress(NanoclawError):  # what was refused is told as that, whatever becomes of its span
            task = self._database.read(lambda tx: tasks.get(tx, task_id)) if task_id else None
        if task is None:
            return
        to = names.STATES.name("to_state", request.to_state) if isinstance(request, pb.TransitionTaskRequest) else ""
        rpc = request.DESCRIPTOR.name.removesuffix("Request")
        spans.tell_refusal(self._telemetry, rpc, to, task, caller, refusal, trace, start_ns)
