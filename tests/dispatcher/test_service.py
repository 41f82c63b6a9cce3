"""The dispatcher as its clients see it: over a socket, with credentials, each RPC."""

import asyncio
from typing import Any

import pytest
import world as w

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2
from nanoclaw_core import VERSION
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import servicer
from nanoclaw_rpc import page


async def refusal(call: Any) -> NanoclawError:
    """The error that the call ends with."""
    with pytest.raises(NanoclawError) as caught:
        await call
    return caught.value


async def idle(world: Any, *names: str, **limits: Any) -> Any:
    """A dispatcher's client, and a task of each name whose agent does nothing."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher(**limits)
    api = await world.api(one)
    for name in names:
        await world.operator.ready(name)
        await world.until(lambda name=name: any(row["state"] == "STARTED" for row in world.attempts(name)))
    return api


async def done(world: Any, *names: str, **fields: Any) -> Any:
    """A dispatcher's client, and a task of each name that came as far as agents bring it."""
    api = await world.api(await world.dispatcher())
    for name in names:
        await world.operator.ready(name, **fields)
        await world.at(name, "DONE" if fields.get("gate") else "REVIEW")
    await world.quiet()
    return api


# lists


async def test_dispatches_are_listed_newest_first_in_pages(world: Any) -> None:
    """Every one once, by whatever page size; the last page has no token."""
    api = await done(world, "t1", "t2", "t3", gate="GATE_SECURITY")
    whole = (await api.ListDispatches(pb.ListDispatchesRequest())).dispatches
    assert [each.id for each in whole] == [row["id"] for row in reversed(world.dispatches())]
    assert len(whole) == 6
    for size in (1, 4, 5, 6, 7):
        found, token = [], ""
        while True:
            answer = await api.ListDispatches(pb.ListDispatchesRequest(page_size=size, page_token=token))
            assert len(answer.dispatches) <= size
            found += answer.dispatches
            token = answer.next_page_token
            if not token:
                break
        assert found == list(whole)


async def test_a_list_shows_what_is_asked_for(world: Any) -> None:
    """By task, by group, by states; several at once narrow it, and so they do over pages."""
    api = await done(world, "t1", "t2", gate="GATE_SECURITY")
    world.fake.agent = w.fake_runtime.idle_agent
    await world.operator.ready("t3")
    await world.until(lambda: [row["state"] for row in world.dispatches("t3")] == ["STARTED"])

    async def listed(**wanted: Any) -> list[tuple[str, str]]:
        answer = await api.ListDispatches(pb.ListDispatchesRequest(**wanted))
        return [(each.task_id, each.group) for each in answer.dispatches]

    assert await listed(task_id="t1") == [("t1", "security"), ("t1", "developer")]
    assert await listed(group="security") == [("t2", "security"), ("t1", "security")]
    assert await listed(group="security", task_id="t2") == [("t2", "security")]
    assert await listed(states=[pb.DISPATCH_STATE_STARTED]) == [("t3", "developer")]
    assert await listed(states=[pb.DISPATCH_STATE_STARTED, pb.DISPATCH_STATE_FAILED], task_id="t1") == []
    assert len(await listed(states=[pb.DISPATCH_STATE_STARTED, pb.DISPATCH_STATE_DONE])) == 5
    assert await listed(task_id="nothing") == []
    first = await api.ListDispatches(pb.ListDispatchesRequest(group="developer", page_size=2))
    rest = await api.ListDispatches(
        pb.ListDispatchesRequest(group="developer", page_size=2, page_token=first.next_page_token)
    )
    assert [each.task_id for each in (*first.dispatches, *rest.dispatches)] == ["t3", "t2", "t1"]


async def test_a_dispatch_is_found_by_its_id_and_by_its_key(world: Any) -> None:
    """And tells all of itself and of its attempts."""
    api = await done(world, "t1", priority="PRIORITY_P1")
    (row,) = world.dispatches()
    (attempt,) = world.attempts()
    one = (await api.GetDispatch(pb.GetDispatchRequest(dispatch_id=row["id"]))).dispatch
    assert one == (await api.GetDispatch(pb.GetDispatchRequest(dispatch_id="t1:READY->DOING:v3"))).dispatch
    assert (one.task_id, one.group, one.rule, one.task_version) == ("t1", "developer", 1, 3)
    assert (one.state, one.priority, one.reason) == (pb.DISPATCH_STATE_DONE, governance_pb2.PRIORITY_P1, "")
    assert one.updated_at.ToNanoseconds() > one.created_at.ToNanoseconds() > 0
    assert not one.HasField("not_before")
    (told,) = one.attempts
    assert (told.id, told.number, told.fence) == (attempt["id"], 1, attempt["fence"])
    assert (told.state, told.outcome, told.exit_code) == (pb.ATTEMPT_STATE_DONE, "EXITED", 0)
    assert told.ended_at.ToNanoseconds() >= told.started_at.ToNanoseconds() >= told.created_at.ToNanoseconds() > 0


async def test_what_waits_for_its_next_attempt_says_until_when_and_why(world: Any) -> None:
    """not_before and the reason; an attempt that has not started has no time of that."""
    world.fake.fail("create", w.NanoclawError(Kind.PRECONDITION, "NO_COMMAND", "no such command"))
    api = await world.api(await world.dispatcher(retry=w.RetryPolicy(3, 3600, 3600)))
    await world.operator.ready("t1")
    await world.until(lambda: [row["not_before"] != "" for row in world.dispatches()] == [True])
    one = (await api.GetDispatch(pb.GetDispatchRequest(dispatch_id="t1:READY->DOING:v3"))).dispatch
    assert one.state == pb.DISPATCH_STATE_ENQUEUED
    assert one.not_before.ToSeconds() - one.updated_at.ToSeconds() in (3599, 3600)
    assert "no such command" in one.reason
    assert not one.attempts[0].HasField("started_at")
    assert (await api.GetStatus(pb.GetStatusRequest())).waiting == 1


async def test_groups_are_those_of_the_configuration_with_what_runs_for_them(world: Any) -> None:
    """By name, in pages."""
    api = await idle(world, "t1", "t2")
    whole = (await api.ListGroups(pb.ListGroupsRequest())).groups
    assert [(group.name, group.role) for group in whole] == [
        ("developer", "executor"), ("main", "main"), ("security", "approver"), ("writer", "executor"),
    ]  # fmt: skip
    assert [(group.running, group.doing) for group in whole] == [(2, 2), (0, 0), (0, 0), (0, 0)]
    assert {(group.runtime, group.wip_limit, group.wip_hard, *group.command) for group in whole} == {
        ("process", 3, False)
    }
    first = await api.ListGroups(pb.ListGroupsRequest(page_size=3))
    rest = await api.ListGroups(pb.ListGroupsRequest(page_size=3, page_token=first.next_page_token))
    assert [*first.groups, *rest.groups] == list(whole)
    assert rest.next_page_token == ""


async def test_the_status_says_what_is_going_on(world: Any) -> None:
    """Slots taken and waited for, the runtime and its isolation, and how far governance's log was read."""
    api = await idle(world, "t1", max_containers=1)
    await world.operator.ready("t2")

    async def one_waits() -> bool:
        return (await api.GetStatus(pb.GetStatusRequest())).waiting == 1

    await world.until(one_waits)
    status = await api.GetStatus(pb.GetStatusRequest())
    assert (status.running, status.waiting, status.max_containers) == (1, 1, 1)
    assert (status.runtime, status.isolation, status.instance) == ("process", "container", "d0")
    assert (status.version, status.started_at.ToJsonString()) == (VERSION, "2026-11-21T12:00:00Z")
    assert status.watching
    assert status.cursor.epoch == 1
    head = (await world.operator.stub.GetStatus(governance_pb2.GetStatusRequest())).head
    assert status.cursor.seq <= head.seq
    await world.governance_server.stop()

    async def no_more() -> bool:
        return not (await api.GetStatus(pb.GetStatusRequest())).watching

    await world.until(no_more)


# what is wrong with a request


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListDispatchesRequest(page_size=-1), "page_size"),
        (pb.ListGroupsRequest(page_size=-1), "page_size"),
        (pb.ListDispatchesRequest(states=[pb.DISPATCH_STATE_UNSPECIFIED]), "states"),
        (pb.ListDispatchesRequest(states=[pb.DISPATCH_STATE_DONE, 99]), "states"),  # type: ignore[list-item]
        (pb.GetDispatchRequest(), "dispatch_id"),
        (pb.RetryDispatchRequest(request_id="r"), "dispatch_id"),
        (pb.CancelDispatchRequest(request_id="r", reason="because"), "dispatch_id"),
        (pb.RetryDispatchRequest(dispatch_id="t1:READY->DOING:v3"), "request_id"),
        (pb.CancelDispatchRequest(dispatch_id="t1:READY->DOING:v3", reason="because"), "request_id"),
        (pb.CancelDispatchRequest(request_id="a b", dispatch_id="x", reason="because"), "request_id"),
        (pb.CancelDispatchRequest(request_id="r", dispatch_id="t1:READY->DOING:v3"), "reason"),
        (pb.CancelDispatchRequest(request_id="r", dispatch_id="t1:READY->DOING:v3", reason=" "), "reason"),
        (pb.CancelDispatchRequest(request_id="r", dispatch_id="t1:READY->DOING:v3", reason="x" * 2001), "reason"),
        (pb.WatchDispatchesRequest(after_seq=-1), "after_seq"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_a_bad_request_is_told_its_field_and_the_next_step(world: Any, request_: Any, field: str) -> None:
    """Before anything is changed."""
    api = await idle(world, "t1")
    before = len(world.log())
    rpc = type(request_).__name__.removesuffix("Request")
    call = getattr(api, rpc)(request_)
    error = await refusal(call.read() if rpc == "WatchDispatches" else call)
    assert (error.kind, error.reason) == (Kind.INVALID, "INVALID_FIELD")
    assert [violation.field for violation in error.violations] == [field]
    assert error.next_step
    assert len(world.log()) == before


async def test_a_page_token_of_somebody_else_is_refused(world: Any) -> None:
    """Never taken for the beginning."""
    api = await world.api(await world.dispatcher())
    for token in ("forged", page.encode(7), page.encode("x", "y")):
        for call in (
            api.ListDispatches(pb.ListDispatchesRequest(page_token=token)),
            api.ListGroups(pb.ListGroupsRequest(page_token=token)),
        ):
            assert (await refusal(call)).reason == "PAGE_TOKEN_INVALID"


async def test_a_page_of_dispatches_fits_into_a_message(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their agents wrote last: it ends earlier, and the next one goes on there."""
    api = await done(world, "t1", "t2", "t3")
    everything = (await api.ListDispatches(pb.ListDispatchesRequest())).dispatches
    monkeypatch.setattr(page, "MOST_BYTES", everything[0].ByteSize() + 10)
    found, token = [], ""
    for _ in everything:
        answer = await api.ListDispatches(pb.ListDispatchesRequest(page_size=500, page_token=token))
        assert len(answer.dispatches) == 1
        found += answer.dispatches
        token = answer.next_page_token
    assert (found, token) == (list(everything), "")


async def test_a_dispatch_that_is_not_there_is_not_found(world: Any) -> None:
    """By each RPC that names one."""
    api = await world.api(await world.dispatcher())
    for call in (
        api.GetDispatch(pb.GetDispatchRequest(dispatch_id="x")),
        api.RetryDispatch(pb.RetryDispatchRequest(request_id="r", dispatch_id="x")),
        api.CancelDispatch(pb.CancelDispatchRequest(request_id="c", dispatch_id="x", reason="because")),
    ):
        error = await refusal(call)
        assert (error.kind, error.reason, error.facts["name"]) == (Kind.NOT_FOUND, "DISPATCH_NOT_FOUND", "x")


# the same request again


async def test_a_repeated_cancel_gets_the_first_answer_and_another_body_none(world: Any) -> None:
    """The wish is recorded once; a used request_id is no way to cancel something else."""
    api = await idle(world, "t1", "t2")
    first, second = (row["id"] for row in world.dispatches())
    request = pb.CancelDispatchRequest(request_id="c", dispatch_id=first, reason="wrong task")
    answers = await asyncio.gather(*(api.CancelDispatch(request) for _ in range(5)))
    assert all(answer.changed for answer in answers)
    await world.at("t1", "BLOCKED")
    await world.until(lambda: [row["state"] for row in world.dispatches("t1")] == ["CANCELLED"])
    assert await api.CancelDispatch(request) == answers[0]
    assert [row["action"] for row in world.log()].count("request_cancel") == 1
    for other in (
        pb.CancelDispatchRequest(request_id="c", dispatch_id=second, reason="wrong task"),
        pb.CancelDispatchRequest(request_id="c", dispatch_id=first, reason="another word"),
    ):
        assert (await refusal(api.CancelDispatch(other))).reason == "REQUEST_ID_REUSED"
    assert len(world.fake.running) == 1


async def test_the_first_who_cancels_gives_the_reason(world: Any) -> None:
    """While the agent is still being stopped, a second wish changes nothing."""
    go = asyncio.Event()

    async def stubborn(run: Any) -> int:
        run.trap = True
        await go.wait()
        return 0

    world.fake.agent = stubborn
    api = await world.api(await world.dispatcher())
    await world.operator.ready("t1")
    await world.until(lambda: [row["state"] for row in world.attempts()] == ["STARTED"])
    (row,) = world.dispatches()
    assert (await api.CancelDispatch(w.pb_cancel(row["id"], "the first"))).changed
    await world.until(lambda: world.fake.attempts[world.fake.runs[0]].terminated.is_set())
    request = pb.CancelDispatchRequest(request_id="second", dispatch_id=row["id"], reason="another")
    assert not (await api.CancelDispatch(request)).changed
    go.set()
    assert (await world.at("t1", "BLOCKED")).state_reason == "the first"
    await world.quiet()


async def test_a_request_id_is_its_caller_s_own(world: Any) -> None:
    """Two people may use the same word."""
    api = await idle(world, "t1", "t2")
    main = await world.api(world.ones[0], "service:gateway")
    first, second = (row["id"] for row in world.dispatches())
    await api.CancelDispatch(pb.CancelDispatchRequest(request_id="c", dispatch_id=first, reason="no"))
    request = pb.CancelDispatchRequest(request_id="c", dispatch_id=second, reason="no")
    assert (await main.CancelDispatch(request, metadata=w.on_behalf("main"))).changed
    await world.quiet()


async def test_a_refused_claim_is_retried_once_per_request(world: Any) -> None:
    """A CANCELLED dispatch whose task still waits: one further attempt, however often the request comes."""
    one = await world.dispatcher()
    api = await world.api(one)

    async def refuse() -> None:
        raise NanoclawError(Kind.PRECONDITION, "MISSING_DOD_CHECKLIST", "no checklist")

    one.governance.before["TransitionTask"] = refuse
    await world.operator.ready("t1")
    await world.until(lambda: [row["state"] for row in world.dispatches()] == ["CANCELLED"])
    (row,) = world.dispatches()
    assert row["code"] == "CLAIM_REFUSED"
    request = pb.RetryDispatchRequest(request_id="r", dispatch_id=row["id"])
    answer = await api.RetryDispatch(request)
    assert (answer.dispatch.state, answer.dispatch.reason) == (pb.DISPATCH_STATE_ENQUEUED, "")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert await api.RetryDispatch(request) == answer
    assert [row["state"] for row in world.attempts()] == ["FAILED", "DONE"]
    assert [(row["principal"], row["request_ref"]) for row in world.log() if row["action"] == "retry"] == [
        ("operator:founder", "r")
    ]
    other = pb.RetryDispatchRequest(request_id="r", dispatch_id="t1:READY->DOING:v3")
    assert (await refusal(api.RetryDispatch(other))).reason == "REQUEST_ID_REUSED"


async def test_what_runs_is_not_retried(world: Any) -> None:
    """Two agents for one need are what all this is against."""
    api = await idle(world, "t1")
    (row,) = world.dispatches()
    error = await refusal(api.RetryDispatch(pb.RetryDispatchRequest(request_id="r", dispatch_id=row["id"])))
    assert (error.kind, error.reason, error.facts["state"]) == (Kind.PRECONDITION, "DISPATCH_ALIVE", "STARTED")
    assert error.next_step
    assert len(world.attempts()) == 1


async def test_nothing_is_retried_beside_another_dispatch_of_its_group(world: Any) -> None:
    """A task that was given away and came back: the old dispatch would serve it again, and so does the new one."""
    world.fake.agent = w.fake_runtime.idle_agent
    api = await world.api(await world.dispatcher())
    await world.operator.ready("t1")
    for number, group in enumerate(("developer", "writer", "developer"), 1):
        await world.until(lambda number=number: len(world.fake.runs) == number and len(world.fake.running) == 1)
        if number < 3:
            await world.operator.assign("t1", "writer" if group == "developer" else "developer")
    await world.until(lambda: world.dispatches()[-1]["state"] == "STARTED")  # written once its agent runs
    old, _, new = world.dispatches()
    assert (old["state"], old["group_name"], new["state"], new["group_name"]) == (
        "CANCELLED", "developer", "STARTED", "developer",
    )  # fmt: skip
    error = await refusal(api.RetryDispatch(pb.RetryDispatchRequest(request_id="r", dispatch_id=old["id"])))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "DISPATCH_ALIVE")
    assert len(world.attempts()) == 3


# watching


async def _read(stream: Any, until: str) -> list[Any]:
    """What comes, heartbeats left out, until that action."""
    found = []
    async with asyncio.timeout(10):
        while True:
            message = await stream.read()
            if message.HasField("dispatch"):
                found.append(message)
                if message.action == until:
                    return found


async def test_a_watcher_sees_every_change_from_the_head_on(world: Any) -> None:
    """First where the head is, then each change with the dispatch as it is, in the order of the log."""
    api = await done(world, "t1")
    stream = api.WatchDispatches(pb.WatchDispatchesRequest())
    head = await stream.read()
    assert (head.seq, head.HasField("dispatch")) == (world.log()[-1]["seq"], False)
    await world.operator.ready("t2")
    seen = await _read(stream, "end")
    stream.cancel()
    assert [message.action for message in seen] == ["enqueue", "start", "end"]
    assert {message.dispatch.task_id for message in seen} == {"t2"}
    assert [message.seq for message in seen] == [head.seq + 1, head.seq + 2, head.seq + 3]
    assert seen[-1].dispatch.state == pb.DISPATCH_STATE_DONE


async def test_who_comes_back_misses_nothing(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any seq on, the same rows as ever, though more than one reading holds them."""
    monkeypatch.setattr(servicer, "_BATCH", 2)
    api = await done(world, "t1", "t2")
    rows = [(row["seq"], row["action"]) for row in world.log() if row["action"] != "session"]
    for after in range(len(world.log())):
        async with api.WatchDispatches(pb.WatchDispatchesRequest(after_seq=after)) as stream:
            wanted = [row for row in rows if row[0] > after]
            seen = [await stream.read() for _ in wanted]
            assert [(message.seq, message.action) for message in seen] == wanted


async def test_a_quiet_stream_beats_with_the_place_it_has_reached(world: Any) -> None:
    """Also past facts that are about no dispatch, such as a notice."""
    api = await world.api(await world.dispatcher())
    await world.operator.ready("t1", gate="GATE_SECURITY", human_gate=True)
    await world.until(lambda: any(row["action"] == "notify" for row in world.log()))
    await world.quiet()
    last = world.log()[-1]["seq"]
    async with api.WatchDispatches(pb.WatchDispatchesRequest(after_seq=last - 1)) as stream:
        async with asyncio.timeout(10):
            while (message := await stream.read()).HasField("dispatch"):
                pass
        assert message.seq == last


async def test_a_place_beyond_the_end_is_refused(world: Any) -> None:
    """Never a silent wait."""
    api = await done(world, "t1")
    head = world.log()[-1]["seq"]
    error = await refusal(api.WatchDispatches(pb.WatchDispatchesRequest(after_seq=head + 1)).read())
    assert (error.kind, error.reason, error.facts["head_seq"]) == (Kind.INVALID, "CURSOR_INVALID", str(head))
