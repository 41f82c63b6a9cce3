"""How the demo's operators vote on a call: each looks at what would happen, and votes for that very thing."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import grpc.aio

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc

if TYPE_CHECKING:  # only the type stubs have these
    from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceAsyncStub

POLL_SECONDS = 0.2

Connect = Callable[[str], AbstractAsyncContextManager[grpc.aio.Channel]]
"""A channel to the broker as the operator of that name."""


async def vote(
    connect: Connect,
    task_id: str,
    operators: tuple[str, ...],
    looked: Callable[[str, pb.PendingCall], Awaitable[None]],
    voted: Callable[[str, pb.CallRecord], None],
) -> pb.CallRecord:
    """Waits for a call of the task, and votes for it as each operator in turn; answers its row after the last vote.

    looked: told who sees which call before the vote; it may take its time. voted: told what the vote made of it.
    """
    row = pb.CallRecord()
    for operator in operators:
        async with connect(operator) as channel:
            broker = broker_pb2_grpc.BrokerServiceStub(channel)
            pending = await _waiting(broker, task_id)
            await looked(operator, pending)
            request = pb.ApproveCallRequest(
                request_id=f"{pending.call.call_id}-{operator}",
                call_id=pending.call.call_id,
                params_digest=pending.params_digest,
                notes="as shown",
            )
            row = (await broker.ApproveCall(request, timeout=60.0)).call
            voted(operator, row)
    return row


async def _waiting(broker: "BrokerServiceAsyncStub", task_id: str) -> pb.PendingCall:
    while True:
        answer = await broker.ListPendingCalls(pb.ListPendingCallsRequest(task_id=task_id))
        if answer.calls:
            return answer.calls[0]
        await asyncio.sleep(POLL_SECONDS)
