"""nanoclaw.runtime.v1.RuntimeService: protos in, one call, protos out."""

from typing import Any

from nanoclaw.runtime.v1 import runtime_pb2 as pb
from nanoclaw.runtime.v1 import runtime_pb2_grpc
from nanoclaw_broker.access import RUNTIME_ACCESS
from nanoclaw_broker.budgeting import Budgets
from nanoclaw_broker.facts import midnight_after
from nanoclaw_broker.visibility import visible_group
from nanoclaw_core.clock import Clock, to_text, utc_now
from nanoclaw_rpc import ServiceSpec, current_caller, current_trace


class RuntimeServicer(runtime_pb2_grpc.RuntimeServiceServicer):
    """Translates; decides nothing."""

    def __init__(self, budgets: Budgets, clock: Clock = utc_now) -> None:
        self._budgets = budgets
        self._clock = clock

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Any) -> pb.GetBudgetResponse:
        return self._budgets.get(visible_group(current_caller(), request.group), self._midnight())

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Any) -> pb.SetBudgetResponse:
        return await self._budgets.set(current_caller(), request, self._midnight(), current_trace().trace_id)

    def _midnight(self) -> str:
        return midnight_after(to_text(self._clock()))


def spec(servicer: RuntimeServicer) -> ServiceSpec:
    """The service as the server takes it."""
    return ServiceSpec(
        "nanoclaw.runtime.v1.RuntimeService",
        runtime_pb2_grpc.add_RuntimeServiceServicer_to_server,
        servicer,
        RUNTIME_ACCESS,
    )
