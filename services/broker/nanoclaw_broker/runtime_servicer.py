"""nanoclaw.runtime.v1.RuntimeService: protos in, one call, protos out."""

from typing import Any

from nanoclaw.runtime.v1 import runtime_pb2 as pb
from nanoclaw.runtime.v1 import runtime_pb2_grpc
from nanoclaw_broker.access import RUNTIME_ACCESS
from nanoclaw_broker.budgeting import Budgets
from nanoclaw_broker.visibility import visible_group
from nanoclaw_rpc import ServiceSpec, current_caller, current_trace


class RuntimeServicer(runtime_pb2_grpc.RuntimeServiceServicer):
    """Translates; decides nothing."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Any) -> pb.GetBudgetResponse:
        return self._budgets.get(visible_group(current_caller(), request.group))

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Any) -> pb.SetBudgetResponse:
        return await self._budgets.set(current_caller(), request, current_trace().trace_id)


def spec(servicer: RuntimeServicer) -> ServiceSpec:
    """The service as the server takes it."""
    return ServiceSpec(
        "nanoclaw.runtime.v1.RuntimeService",
        runtime_pb2_grpc.add_RuntimeServiceServicer_to_server,
        servicer,
        RUNTIME_ACCESS,
    )
