"""The way through."""

from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as pb


async def test_a_granted_call_of_json_is_executed(broker: Any) -> None:
    """Granted, decided, claimed, executed, recorded, answered."""
    await broker.grant("json", pb.ACCESS_LEVEL_L1)
    answer = await broker.call("json", "transform", {"expression": "sum(@)", "data": [1, 2]})
    assert (answer.status, answer.code, answer.data_json) == (pb.CALL_STATUS_EXECUTED, "OK", "3")
    assert (await broker.record(answer.call_id)).state == pb.CALL_STATE_EXECUTED
