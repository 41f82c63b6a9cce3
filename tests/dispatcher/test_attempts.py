"""Attempts: failures and their retries, timeouts, cancelling, orphans."""

from dataclasses import replace
from typing import Any

import pytest
import structlog
import world as w

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError, denied
from nanoclaw_dispatcher.groups import Groups
from nanoclaw_telemetry import TraceContext, setup


def _configure(world: Any, **options: Any) -> None:
    developer = replace(world.groups.get("developer"), **options)
    world.groups = Groups({**world.groups.by_name, "developer": developer})


async def test_a_failed_attempt_is_tried_again_under_a_new_fence(world: Any) -> None:
    """The next attempt has its own name, number, mailbox and a higher fence."""
    codes = iter([3, 0])

    async def executor(run: Any, hands: Any) -> int:
        code = next(codes)
        if code:
            run.write("no such module\n")
            return code
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    first, second = world.attempts()
    assert (first["state"], first["outcome"], first["exit_code"], first["last_lines"]) == (
        "FAILED", "EXITED", 3, "no such module",
    )  # fmt: skip
    assert (second["state"], second["number"]) == ("DONE", 2)
    assert second["fence"] > first["fence"]
    assert [request.fence for request in world.gateway.opened] == [first["fence"], second["fence"]]
    assert "no such module" in world.fake.attempts[second["id"]].spec.stdin


async def test_a_retry_is_a_span_that_links_to_the_attempt_before(world: Any, collector: Any) -> None:
    """Both in the task's trace, each with the agent's run in it; the second says what it repeats and why."""
    codes = iter([3, 0])

    async def executor(run: Any, hands: Any) -> int:
        return next(codes) or await w.hand_in(run, hands)

    world.telemetry = setup("dispatcher", collector.environ)
    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    task = await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    spans = await collector.wait_for(lambda all: sum(span.name == "agent.run" for span in all) >= 2)
    world.telemetry.shutdown()
    first, second = sorted((s for s in spans if s.name == "dispatch.attempt"), key=lambda span: span.start_ns)
    root = TraceContext.parse(task.traceparent)
    assert root is not None
    assert {(span.trace_id, span.parent_id) for span in (first, second)} == {(root.trace_id, root.span_id)}
    assert first.links == ()
    assert second.links == ((first.trace_id, first.span_id),)
    assert (first.error, second.error) == ("EXITED with 3", "")
    assert first.attributes["nanoclaw.decision"] == "ENQUEUED"
    told = {
        name: second.attributes[f"nanoclaw.{name}"] for name in ("retry_of", "reason", "decision", "attempt_number")
    }
    assert told == {
        "retry_of": first.attributes["nanoclaw.attempt"],
        "reason": "EXITED with 3",
        "decision": "DONE",
        "attempt_number": 2,
    }
    for name in ("agent.run", "dispatch.start"):
        inside = [span.parent_id for span in spans if span.name == name]
        assert sorted(inside) == sorted([first.span_id, second.span_id])
    assert {span.service for span in spans if span.name == "agent.run"} == {"nanoclaw-agent"}


async def test_when_every_attempt_has_failed_the_task_is_blocked_with_the_reason(world: Any) -> None:
    """Somebody has to look, and reads why."""

    async def executor(run: Any, hands: Any) -> int:
        run.write("out of ideas\n")
        return 7

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    await world.operator.ready("t1")
    task = await world.at("t1", "BLOCKED")
    assert "3 attempts failed" in task.state_reason
    assert "out of ideas" in task.state_reason
    assert task.blocked_by == "service:dispatcher"
    (dispatch,) = world.dispatches()
    assert (dispatch["state"], dispatch["code"], dispatch["failures"]) == ("FAILED", "EXHAUSTED", 3)


async def test_an_agent_that_ends_without_moving_its_task_has_failed(world: Any) -> None:
    """Exit 0 alone is no progress."""

    async def executor(run: Any, hands: Any) -> int:
        return 0

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "BLOCKED")
    assert [row["outcome"] for row in world.attempts()] == ["NO_PROGRESS"] * 3


async def test_what_the_agent_wrote_last_is_decided_before_it_is_judged(world: Any) -> None:
    """The mailbox is drained first: an agent that wrote its request and exited has done its work."""

    async def executor(run: Any, hands: Any) -> int:
        async def drained() -> None:
            await hands.move(run.spec.task_id, "REVIEW", "done")

        world.gateway.drain[run.spec.attempt_id] = drained
        return 0

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [row["state"] for row in world.attempts()] == ["DONE"]


@pytest.mark.parametrize(("option", "outcome"), [("wall_timeout", "WALL_TIMEOUT"), ("idle_timeout", "IDLE_TIMEOUT")])
async def test_a_timeout_stops_the_agent(world: Any, option: str, outcome: str) -> None:
    """SIGTERM, and the attempt has failed with the timeout's name."""
    _configure(world, **{option: 0.1})
    world.fake.agent = w.fake_runtime.idle_agent
    await world.dispatcher(retry=w.RetryPolicy(1, 0.01, 0.05))
    await world.operator.ready("t1")
    task = await world.at("t1", "BLOCKED")
    assert task.state_reason.startswith(outcome)
    assert [row["outcome"] for row in world.attempts()] == [outcome]
    assert world.fake.running == []


@pytest.mark.parametrize("sign", ["line", "file"])
async def test_a_sign_of_life_puts_the_idle_timeout_off(world: Any, sign: str) -> None:
    """Lines and files each count: who works is not idle."""
    _configure(world, idle_timeout=0.5)

    async def executor(run: Any, hands: Any) -> int:
        for number in range(7):
            await w.asyncio.sleep(0.1)  # what it is about is that time passes
            if sign == "line":
                run.write("still here\n")
            else:
                (run.spec.mailbox / "tasks" / f"{number}.json").write_text("{}")
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [row["state"] for row in world.attempts()] == ["DONE"]


async def test_a_lost_agent_is_replaced_by_the_next_attempt(world: Any) -> None:
    """Gone without an exit record: LOST, and tried again."""
    first = True

    async def executor(run: Any, hands: Any) -> int:
        nonlocal first
        if first:
            first = False
            return await w.fake_runtime.idle_agent(run)
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "STARTED")
    world.fake.lose(world.attempts()[0]["id"])
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [row["state"] for row in world.attempts()] == ["LOST", "DONE"]


async def test_what_cannot_be_started_fails_and_says_why(world: Any) -> None:
    """A refusal of the runtime is an attempt's end, not the dispatcher's."""
    for _ in range(3):
        world.fake.fail("create", denied("NO_SANDBOX", "no sandbox works here", "install bubblewrap"))
    await world.dispatcher()
    await world.operator.ready("t1")
    task = await world.at("t1", "BLOCKED")
    assert "NO_SANDBOX" in task.state_reason
    assert [row["outcome"] for row in world.attempts()] == ["START_FAILED"] * 3
    assert world.fake.runs == []


async def test_what_passes_later_is_waited_for_and_counts_as_no_failure(world: Any) -> None:
    """Gateway, governance and runtime may be away for a moment at any step."""
    one = await world.dispatcher()

    async def away() -> None:
        raise w.unavailable()

    world.gateway.faults["OpenMailbox"].append(w.unavailable())
    world.gateway.faults["CloseMailbox"].append(w.unavailable())
    for rpc in ("GetTask", "TransitionTask", "BindAttempt"):
        one.governance.before[rpc] = away
    one.governance.after["TransitionTask"] = away
    for method in ("create", "start", "wait"):
        world.fake.fail(method, w.unavailable())
    world.fake.fail("start", w.unavailable(), ran=True)
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [row["state"] for row in world.attempts()] == ["DONE"]
    assert len(world.fake.runs) == 1


async def test_a_claim_binds_the_first_attempt_and_the_next_ones_are_bound_by_themselves(world: Any) -> None:
    """One answer of governance fewer before an agent runs; a claim that is repeated binds nothing."""
    codes = iter([1, 0])
    bound: list[tuple[str, int]] = []

    async def executor(run: Any, hands: Any) -> int:
        (binding,) = (await world.operator.get("t1")).attempts
        bound.append((binding.attempt_id, binding.fence))
        return await w.hand_in(run, hands) if next(codes) == 0 else 1

    async def count() -> None:
        by_themselves.append(len(bound))

    by_themselves: list[int] = []
    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher()
    one.governance.before["BindAttempt"] = count
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert bound == [(row["id"], row["fence"]) for row in world.attempts()]
    assert by_themselves == [1]  # asked for once, after the first had run


async def test_cancel_stops_the_agent_and_blocks_the_task(world: Any) -> None:
    """Who cancels, and why, is in the log; the same request answers the same."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher()
    api = await world.api(one)
    await world.operator.ready("t1")
    await world.until(lambda: world.fake.running)
    (dispatch,) = world.dispatches()
    request = pb.CancelDispatchRequest(request_id="c1", dispatch_id=dispatch["id"], reason="wrong task")
    answer = await api.CancelDispatch(request)
    assert answer.changed
    task = await world.at("t1", "BLOCKED")
    assert task.state_reason == "wrong task"
    await world.quiet()
    assert world.fake.running == []
    assert [(row["state"], row["code"]) for row in world.dispatches()] == [("CANCELLED", "CANCELLED")]
    assert [row["principal"] for row in world.log() if row["action"] == "request_cancel"] == ["operator:founder"]
    assert await api.CancelDispatch(request) == answer
    again = await api.CancelDispatch(
        pb.CancelDispatchRequest(request_id="c2", dispatch_id=dispatch["id"], reason="twice")
    )
    assert not again.changed


async def test_cancel_reaches_a_dispatch_that_waits_for_its_next_attempt(world: Any) -> None:
    """Between two attempts there is nothing to stop, but the task is blocked and nothing more is tried."""

    async def executor(run: Any, hands: Any) -> int:
        return 1

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher(retry=w.RetryPolicy(3, 3600, 3600))
    api = await world.api(one)
    await world.operator.ready("t1")
    await world.until(lambda: [row["not_before"] != "" for row in world.dispatches()] == [True])
    (dispatch,) = world.dispatches()
    await api.CancelDispatch(pb.CancelDispatchRequest(request_id="c", dispatch_id=dispatch["id"], reason="enough"))
    await world.at("t1", "BLOCKED")
    await world.quiet()
    assert [(row["state"], row["code"]) for row in world.dispatches()] == [("CANCELLED", "CANCELLED")]


async def test_a_cancelled_dispatch_is_cancelled_though_its_task_s_move_is_seen_first(world: Any) -> None:
    """Cancelling blocks the task, and the news of that may come to the rules before the cancelling is through."""

    async def executor(run: Any, hands: Any) -> int:
        return 1

    async def rules_were_first() -> None:
        await world.until(lambda: world.dispatches()[0]["state"] == "CANCELLED")

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher(retry=w.RetryPolicy(3, 3600, 3600))
    api = await world.api(one)
    await world.operator.ready("t1")
    await world.until(lambda: [row["not_before"] != "" for row in world.dispatches()] == [True])
    one.governance.after["TransitionTask"] = rules_were_first
    with structlog.testing.capture_logs() as logged:
        await api.CancelDispatch(w.pb_cancel(world.dispatches()[0]["id"], "enough"))
        await world.at("t1", "BLOCKED")
        await world.until(lambda: "TransitionTask" not in one.governance.after)
        await world.quiet()
        await one.engine.upkeep.sweep()
    (row,) = world.dispatches()
    assert (row["state"], row["code"], row["reason"]) == ("CANCELLED", "CANCELLED", "enough")
    assert [each for each in logged if each["event"] == "engine_task_failed"] == []


async def test_retry_ends_a_pause_and_refuses_what_is_over(world: Any) -> None:
    """An operator need not wait for the backoff; a task that moved on is not dispatched for the past."""
    codes = iter([1, 0])

    async def executor(run: Any, hands: Any) -> int:
        return await w.hand_in(run, hands) if next(codes) == 0 else 1

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher(retry=w.RetryPolicy(3, 3600, 3600))
    api = await world.api(one)
    await world.operator.ready("t1")
    await world.until(lambda: [row["not_before"] != "" for row in world.dispatches()] == [True])
    (dispatch,) = world.dispatches()
    answer = await api.RetryDispatch(pb.RetryDispatchRequest(request_id="r1", dispatch_id=dispatch["id"]))
    assert answer.dispatch.state == pb.DISPATCH_STATE_ENQUEUED
    await world.at("t1", "REVIEW")
    await world.quiet()
    with pytest.raises(NanoclawError) as refused:
        await api.RetryDispatch(pb.RetryDispatchRequest(request_id="r2", dispatch_id=dispatch["id"]))
    assert refused.value.reason == "DISPATCH_DONE"


async def test_retry_of_a_failed_dispatch_says_how_to_go_on(world: Any) -> None:
    """Its task is BLOCKED: unblocking starts it anew, and the error says so."""

    async def executor(run: Any, hands: Any) -> int:
        return 1

    world.fake.agent = w.by_group(world, {"developer": executor})
    one = await world.dispatcher()
    api = await world.api(one)
    await world.operator.ready("t1")
    await world.at("t1", "BLOCKED")
    (dispatch,) = world.dispatches()
    with pytest.raises(NanoclawError) as refused:
        await api.RetryDispatch(pb.RetryDispatchRequest(request_id="r", dispatch_id=dispatch["id"]))
    assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, "TASK_MOVED")
    assert "BLOCKED to TASK_STATE_DOING" in refused.value.next_step


async def test_what_runs_without_a_live_row_is_stopped(world: Any) -> None:
    """The sweep finds orphans by the runtime's own list."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher()
    spec = w.AttemptSpec(
        "nc-00000000000000000000-1", "k", "t9", world.groups.get("developer"), world.home / "ipc", "{}\n"
    )
    runtime = w.fake_runtime.FakeRuntime(world.fake)
    await runtime.create(spec)
    await runtime.start(spec.attempt_id)
    await one.engine.upkeep.sweep()
    assert world.fake.running == []
    await one.engine.upkeep.sweep()
    assert spec.attempt_id not in world.fake.attempts
