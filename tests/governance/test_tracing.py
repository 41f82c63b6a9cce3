"""Each fact about a task is a span of the task's own trace, linked to the request that caused it."""

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_telemetry import TraceContext, setup


async def test_a_task_has_one_trace_with_a_span_for_each_fact(open_service, collector) -> None:
    """The root is task.create; the others hang below it, and link to their server spans in other traces."""
    telemetry = setup("governance", collector.environ)
    service = await open_service(telemetry=telemetry)
    admin = service.as_("operator:founder")
    task = (await admin("CreateTask", title="t", task_type="BUG", assigned_group="developer")).task
    for to in ("TRIAGED", "READY"):
        await admin("TransitionTask", task_id=task.id, to_state=to)
    await admin("TransitionTask", request_id="r", task_id=task.id, to_state="DOING")
    await admin("TransitionTask", request_id="r", task_id=task.id, to_state="DOING")
    await admin("TransitionTask", task_id=task.id, to_state="DOING")
    await service.as_("group:developer")(
        "TransitionTask", task_id=task.id, to_state="REVIEW", review_summary="the secret sauce"
    )
    root = TraceContext.parse(task.traceparent)
    assert root is not None
    names = ["task.create", *["task.transition"] * 4, "task.execution_summary"]
    spans = await collector.wait_for(lambda got: sum(span.trace_id == root.trace_id for span in got) >= len(names))
    telemetry.shutdown()
    ours = sorted((span for span in spans if span.trace_id == root.trace_id), key=lambda span: span.end_ns)
    assert sorted(span.name for span in ours) == sorted(names)
    created = ours[0]
    assert (created.name, created.span_id, created.parent_id) == ("task.create", root.span_id, "")
    servers = {(span.trace_id, span.span_id) for span in collector.spans if span.kind == 2}
    for span in ours:
        assert span.parent_id == ("" if span is created else root.span_id)
        assert set(span.links) <= servers
        assert len(span.links) == 1
        assert span.attributes["nanoclaw.task"] == task.id
        assert "sauce" not in str(span.attributes)
    moved = [span.attributes for span in ours if span.name == "task.transition"]
    assert [(each["nanoclaw.from"], each["nanoclaw.to"]) for each in moved] == [
        ("INBOX", "TRIAGED"), ("TRIAGED", "READY"), ("READY", "DOING"), ("DOING", "REVIEW"),
    ]  # fmt: skip
    assert moved[-1]["nanoclaw.group"] == "developer"


async def test_an_override_begins_a_trace_for_its_follow_up(open_service, collector) -> None:
    """Two tasks, two traces, one request."""
    telemetry = setup("governance", collector.environ)
    service = await open_service(telemetry=telemetry)
    admin = service.as_("operator:founder")
    task = (await admin("CreateTask", title="t", task_type="BUG", gate=pb.GATE_SECURITY)).task
    answer = await admin("OverrideTask", task_id=task.id, reason="hurry")
    spans = await collector.wait_for(lambda got: sum(span.name.startswith("task.") for span in got) >= 3)
    telemetry.shutdown()
    by_trace = {span.trace_id: span.name for span in spans if span.name.startswith("task.")}
    assert by_trace[answer.task.traceparent[3:35]] == "task.override"
    assert by_trace[answer.follow_up.traceparent[3:35]] == "task.create"
