"""Each fact about a task is a span of the task's own trace, linked to the request that caused it."""

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import NanoclawError
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
    decided = [(each.get("nanoclaw.decision"), each["nanoclaw.relation"]) for each in moved]
    assert decided == [("allow", "admin")] * 3 + [("allow", "assigned_group")]
    (summary,) = [span.attributes for span in ours if span.name == "task.execution_summary"]
    assert "nanoclaw.decision" not in summary, "it followed from the transition"


async def test_a_refusal_is_a_span_of_the_tasks_trace_with_its_reason(open_service, collector) -> None:
    """Who wanted what, as what, and why not; nothing for a malformed request, nor for who may not see it."""
    telemetry = setup("governance", collector.environ)
    service = await open_service(telemetry=telemetry)
    admin, developer = service.as_("operator:founder"), service.as_("group:developer")
    task = (
        await admin("CreateTask", title="t", task_type="BUG", assigned_group="developer", gate=pb.GATE_SECURITY)
    ).task
    for actor, rpc, reason, fields in (
        (admin, "TransitionTask", "NO_SUCH_EDGE", {"to_state": "DONE"}),
        (admin, "TransitionTask", "STALE_VERSION", {"to_state": "TRIAGED", "expected_version": 7}),
        (developer, "TransitionTask", "NOT_PERMITTED", {"to_state": "TRIAGED", "reason": "the secret sauce"}),
        (developer, "ApproveGate", "NOT_PERMITTED", {"gate": pb.GATE_SECURITY, "notes": "the secret sauce"}),
        (admin, "ApproveGate", "NOTHING_TO_APPROVE", {"gate": pb.GATE_SECURITY}),
        (admin, "TransitionTask", "INVALID_FIELD", {"to_state": 99}),
        (service.as_("group:designer"), "TransitionTask", "TASK_NOT_FOUND", {"to_state": "TRIAGED"}),
    ):
        with pytest.raises(NanoclawError) as caught:
            await actor(rpc, task_id=task.id, **fields)
        assert caught.value.reason == reason
    spans = await collector.wait_for(lambda got: sum(span.name.startswith("task.") for span in got) >= 6)
    telemetry.shutdown()
    root = TraceContext.parse(task.traceparent)
    assert root is not None
    refused = [span for span in spans if span.attributes.get("nanoclaw.decision") == "deny"]
    assert {(span.trace_id, span.parent_id) for span in refused} == {(root.trace_id, root.span_id)}
    names = ("reason", "relation", "from", "to")
    told = [(span.name, *(span.attributes.get(f"nanoclaw.{name}") for name in names)) for span in refused]
    assert told == [
        ("task.transition", "NO_SUCH_EDGE", "admin", "INBOX", "DONE"),
        ("task.transition", "STALE_VERSION", "admin", "INBOX", "TRIAGED"),
        ("task.transition", "NOT_PERMITTED", "assigned_group", "INBOX", "TRIAGED"),
        ("task.approve", "NOT_PERMITTED", "assigned_group", None, None),
        ("task.approve", "NOTHING_TO_APPROVE", "admin", None, None),
    ]
    assert [span.error for span in refused] == [span.attributes["nanoclaw.reason"] for span in refused]
    servers = {(span.trace_id, span.span_id) for span in spans if span.kind == 2}
    assert all(set(span.links) <= servers and span.links for span in refused)
    assert "sauce" not in str(spans)


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
