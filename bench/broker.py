"""The row of the broker: a call of the pure provider `json`, decided, in the ledger, executed, against the echo."""

import itertools

from bench import echo
from bench.compare import in_turn, throughput
from bench.governance import size
from bench.rows import Row, row
from bench.system import System, echo_server
from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc

_numbers = itertools.count()
# Limits are not what is measured here; `system` is started with these.
ENVIRON = {
    "NANOCLAW_GATEWAY_PER_MINUTE": "0",
    "NANOCLAW_BROKER_RATE_L1": "100000000",
    "NANOCLAW_BROKER_HARD_L1": "100000000",
    "NANOCLAW_BROKER_SOFT_L1": "100000000",
    "NANOCLAW_BROKER_PENDING": "1000",
}


async def rows(one: System) -> list[Row]:
    """Calls as the gateway makes them for a group, at 1, 16 and 64 callers."""
    found = []
    token = (one.home / "secrets" / "services" / "gateway.token").read_text().strip()
    metadata = (("authorization", f"Bearer {token}"), ("nanoclaw-group", "developer"))
    async with echo_server(one.home) as (bare, echo_pid), one.channel("broker") as channel:
        stub: broker_pb2_grpc.BrokerServiceAsyncStub = broker_pb2_grpc.BrokerServiceStub(channel)
        await stub.Grant(
            pb.GrantRequest(request_id="bench", group="developer", provider="json", access_level=pb.ACCESS_LEVEL_L1),
            metadata=one.metadata,
        )

        async def call(_number: int) -> pb.CallResponse:
            answer = await stub.Call(
                pb.CallRequest(
                    request_id=f"bench-{next(_numbers)}",
                    provider="json",
                    action="transform",
                    params_json='{"expression": "sum(a)", "data": {"a": [1, 2, 3]}}',
                    attestation=pb.Attestation(signature=pb.Attestation.SIGNATURE_VALID),
                ),
                metadata=metadata,
            )
            assert answer.status == pb.CALL_STATUS_EXECUTED, answer
            return answer

        for callers in (1, 16, 64):
            samples = await in_turn((echo.caller(bare, await size(call)), echo_pid), (call, one.pid("broker")), callers)
            found.append(row("Call of json / echo", callers, throughput(*samples), 0.15, True, samples[1]))
    return found
