"""Every outcome leaves a line with who, what and why; refused callers too; never a token."""

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import Kind, NanoclawError, Violation
from nanoclaw_rpc import mark_replayed, note, on_behalf
from nanoclaw_telemetry import TraceContext, setup, under


def audited(lines):
    return [line for line in lines() if line["event"] == "rpc"]


async def test_a_change_is_told_at_info_and_a_read_at_debug(log_lines, serve, dial, spec):
    """INFO tells what changed; reads would drown it."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    await stub.CreateTask(pb.CreateTaskRequest(request_id="r"))
    await stub.GetTask(pb.GetTaskRequest())
    change, read = audited(log_lines)
    assert (change["level"], change["rpc"], change["code"]) == ("info", f"{spec.name}/CreateTask", "OK")
    assert change["principal"] == "operator:founder"
    assert change["took_us"] >= 0
    assert (read["level"], read["rpc"]) == ("debug", f"{spec.name}/GetTask")


@pytest.mark.parametrize("kind", [Kind.DENIED, Kind.CONFLICT, Kind.PRECONDITION, Kind.EXHAUSTED, Kind.UNAUTHENTICATED])
async def test_denials_and_conflicts_are_told_at_warning_with_all_that_was_broken(
    log_lines, serve, dial, spec, puppet, kind
):
    """Policy at work is worth a look, for reads as well."""

    def refuse(_request):
        raise NanoclawError(kind, "STALE_VERSION", "no", violations=[Violation("A", "a"), Violation("B", "b")])

    puppet.on_get = refuse
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError):
        await stub.GetTask(pb.GetTaskRequest())
    (line,) = audited(log_lines)
    assert (line["level"], line["reason"], line["violations"]) == ("warning", "STALE_VERSION", ["A", "B"])


async def test_who_is_refused_at_the_door_is_told_too(log_lines, serve, raw, bearer, spec):
    """Without a name there is the peer; with one, the name; the token in neither."""
    server = await serve(spec)
    await raw(server, (("authorization", "Bearer nct_0123456789abcdefghij"),))
    await raw(server, bearer("service:broker"), rpc="CreateTask")
    stranger, known = audited(log_lines)
    assert (stranger["level"], stranger["reason"]) == ("warning", "UNKNOWN_CREDENTIAL")
    assert "peer" in stranger
    assert (known["level"], known["reason"], known["principal"]) == ("warning", "NOT_PERMITTED", "service:broker")
    text = repr(log_lines())
    assert "nct_" not in text
    assert bearer("service:broker")[0][1] not in text


async def test_a_group_is_told_with_its_attempt_and_who_spoke_for_it(log_lines, serve, dial, spec):
    """The log names the principal, and the gateway where it spoke for one."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec), "service:gateway"))
    await stub.GetTask(pb.GetTaskRequest(), metadata=on_behalf("developer", "nc-1"))
    (line,) = audited(log_lines)
    assert (line["principal"], line["via"], line["attempt"]) == ("group:developer", "service:gateway", "nc-1")


async def test_a_replayed_answer_drops_to_debug_and_notes_are_kept(log_lines, serve, dial, spec, puppet):
    """An idempotent hit changes nothing; ids that the servicer notes stand in the line."""

    def replay(_request):
        mark_replayed()
        note(task_id="t1")
        return pb.CreateTaskResponse()

    puppet.on_create = replay
    await stubs.GovernanceServiceStub(dial(await serve(spec))).CreateTask(pb.CreateTaskRequest(request_id="r"))
    (line,) = audited(log_lines)
    assert (line["level"], line["task_id"]) == ("debug", "t1")


async def test_a_note_neither_hides_the_line_s_own_words_nor_breaks_the_call(log_lines, serve, dial, spec, puppet):
    """Whatever a servicer calls its facts, the RPC is answered and the line says who it was."""

    def noting(_request):
        note(code=418, principal="operator:nobody", event="e", took_us="x", reason="r", fine=1)
        return pb.CreateTaskResponse()

    puppet.on_create = noting
    await stubs.GovernanceServiceStub(dial(await serve(spec))).CreateTask(pb.CreateTaskRequest(request_id="r"))
    (line,) = audited(log_lines)
    assert (line["code"], line["principal"], line["fine"]) == ("OK", "operator:founder", 1)
    assert (line["note_code"], line["note_event"], line["note_reason"]) == (418, "e", "r")


async def test_lines_carry_the_trace_of_their_rpc(log_lines, serve, dial, spec):
    """A line leads to its trace."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with under(TraceContext.new()) as ours:
        answer = await stub.GetTask(pb.GetTaskRequest())
    (line,) = audited(log_lines)
    served = TraceContext.parse(answer.task.traceparent)
    assert (line["trace_id"], line["span_id"]) == (ours.trace_id, served.span_id)


async def test_a_level_that_is_off_builds_no_line(serve, dial, spec, capsys):
    """At WARNING neither reads nor changes are told, and nothing is computed for them."""
    setup("test", {"NANOCLAW_LOG_LEVEL": "WARNING"})
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    await stub.CreateTask(pb.CreateTaskRequest(request_id="r"))
    await stub.GetTask(pb.GetTaskRequest())
    assert capsys.readouterr().err == ""


async def test_outside_an_rpc_notes_go_nowhere():
    """Code shared with background work may note freely."""
    note(task_id="t")
    mark_replayed()
