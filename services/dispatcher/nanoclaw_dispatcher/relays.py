"""The broker as the dispatcher calls it: the relays by which attempts think."""

import sqlite3
from pathlib import Path

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw_dispatcher.workspace import RELAY_FOLDER


class Relays:
    """What the dispatcher asks of the broker."""

    def __init__(self, stub: "broker_pb2_grpc.BrokerServiceAsyncStub") -> None:
        self._stub = stub

    async def open(self, attempt: sqlite3.Row) -> str:
        """Makes the attempt's relay; answers the absolute path of its folder. Idempotent."""
        answer = await self._stub.OpenRelay(
            pb.OpenRelayRequest(
                request_id=f"{attempt['id']}:open-relay",
                attempt_id=attempt["id"],
                group=attempt["group_name"],
                task_id=attempt["task_id"],
                traceparent=attempt["traceparent"],
            )
        )
        return answer.path

    async def close(self, attempt_id: str) -> None:
        """Cuts off what the attempt still asks. Idempotent; a relay that never was is no error."""
        request = pb.CloseRelayRequest(request_id=f"{attempt_id}:close-relay", attempt_id=attempt_id)
        await self._stub.CloseRelay(request, timeout=30)


def left(mailbox: str) -> bool:
    """Whether an attempt with that mailbox has a relay, whatever its group is configured to have now."""
    return mailbox != "" and Path(mailbox).with_name(RELAY_FOLDER).exists()
