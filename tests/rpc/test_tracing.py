"""The server span: one per RPC, in the caller's trace, under ids that the servicer can ask for."""

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_rpc import current_trace
from nanoclaw_telemetry import TraceContext, setup, under


async def test_a_server_span_continues_the_trace_that_the_client_is_in(serve, dial, spec, collector):
    """One trace from the caller through the server: same trace id, the caller's span as parent."""
    telemetry = setup("governance", collector.environ)
    server = await serve(spec, telemetry=telemetry)
    stub = stubs.GovernanceServiceStub(dial(server))
    ours = TraceContext.new()
    with under(ours):
        answer = await stub.GetTask(pb.GetTaskRequest(task_id="t1"))
    (span,) = await collector.wait_for(bool)
    assert (span.trace_id, span.parent_id) == (ours.trace_id, ours.span_id)
    assert answer.task.traceparent == f"00-{span.trace_id}-{span.span_id}-01"
    assert span.name == "nanoclaw.governance.v1.GovernanceService/GetTask"
    assert span.service == "nanoclaw-governance"
    assert span.kind == 2
    assert span.attributes["nanoclaw.principal"] == "operator:founder"
    assert span.attributes["rpc.grpc.status_code"] == "OK"
    assert span.end_ns >= span.start_ns
    telemetry.shutdown()


async def test_the_trace_has_ids_even_when_telemetry_is_off(serve, dial, spec):
    """Log rows name their trace whether or not somebody collects."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    first, second = [(await stub.GetTask(pb.GetTaskRequest(task_id="t"))).task.traceparent for _ in range(2)]
    assert TraceContext.parse(first) is not None
    assert first != second
    assert current_trace() != current_trace()
