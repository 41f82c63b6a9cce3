"""The two-man rule: what can't be repeated safely waits for two votes on the very call, and happens once."""

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw_broker.lapsing import Lapsing
from nanoclaw_broker.providers import Refused
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Role
from nanoclaw_rpc import Credentials, on_behalf
from nanoclaw_store import Database

L1, L2, L3 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2, pb.ACCESS_LEVEL_L3
WAITS = pb.CALL_STATE_AWAITING_APPROVAL


@pytest.fixture(autouse=True)
def people(credentials: Credentials) -> None:
    credentials.add_operator("ana", Role.APPROVER)
    credentials.add_operator("vera", Role.VIEWER)


async def ask(broker: Any, governance: Any, text: str = "the rocket", **fields: Any) -> pb.CallResponse:
    """An L3 call of developer for a task in DOING with the gate approved."""
    if "t1" not in governance.tasks:
        governance.put("t1", gate=gov.GATE_SECURITY, approver_group="security", executors=["group:developer"])
        governance.live["t1"] = [gov.GATE_SECURITY]
        await broker.grant("count", L3)
    return await broker.call("count", "launch", {"text": text}, task_id="t1", **fields)


async def pending(broker: Any, *, stub: Any = None, group: str = "") -> list[pb.PendingCall]:
    metadata = on_behalf(group) if group else ()
    stub = broker.gateway if group else stub or broker.founder
    return list((await stub.ListPendingCalls(pb.ListPendingCallsRequest(), metadata=metadata)).calls)


async def vote(broker: Any, who: str, waiting: pb.CallResponse, rpc: str = "ApproveCall", **fields: Any) -> Any:
    """A vote by `operator:x`, or by a group through the gateway."""
    fields = {"request_id": f"v-{who}-{waiting.call_id}", "params_digest": waiting.facts["params_digest"]} | fields
    request = getattr(pb, f"{rpc}Request")(call_id=waiting.call_id, **fields)
    if who.startswith("operator:"):
        return await getattr(broker.stub(who), rpc)(request)
    return await getattr(broker.gateway, rpc)(request, metadata=on_behalf(who))


async def refused(vote: Any) -> str:
    with pytest.raises(NanoclawError) as raised:
        await vote
    return raised.value.reason


async def test_two_votes_have_it_executed_once(broker: Any, governance: Any, counter: Any) -> None:
    """Asked: it waits. First vote: it waits. Second: it is executed, and the agent that asks again has the outcome."""
    waiting = await ask(broker, governance, request_id="mine", idempotency_key="k")
    assert (waiting.status, waiting.code) == (pb.CALL_STATUS_DENIED, "APPROVAL_PENDING")
    record = await broker.record(waiting.call_id)
    assert (record.state, record.level, record.task_id) == (WAITS, L3, "t1")
    assert record.approval_expires_at.ToSeconds() - record.created_at.ToSeconds() == 86400
    again = await ask(broker, governance, request_id="mine", idempotency_key="k")
    assert (again.code, again.call_id, again.replayed) == ("APPROVAL_PENDING", waiting.call_id, True)

    first = await vote(broker, "operator:ana", waiting, notes="looked at it")
    assert (first.call.state, first.HasField("outcome"), counter.effects) == (WAITS, False, 0)
    assert (await ask(broker, governance, request_id="mine", idempotency_key="k")).facts["votes"] == "1"
    second = await vote(broker, "security", waiting)
    assert (second.call.state, second.outcome.code) == (pb.CALL_STATE_EXECUTED, "OK")
    assert json.loads(second.outcome.data_json) == {"did": "the rocket"}
    assert [(one.principal, one.approve, one.notes) for one in second.call.votes] == [
        ("operator:ana", True, "looked at it"),
        ("group:security", True, ""),
    ]
    for fields in ({"request_id": "mine", "idempotency_key": "k"}, {"request_id": "other", "idempotency_key": "k"}):
        outcome = await ask(broker, governance, **fields)
        assert (outcome.code, outcome.call_id, outcome.replayed) == ("OK", waiting.call_id, True)
    found = await broker.gateway.GetCall(pb.GetCallRequest(call_id=waiting.call_id), metadata=on_behalf("developer"))
    assert found.answer.code == "OK"
    assert counter.launch.effects == ["the rocket"]
    assert (await vote(broker, "security", waiting)).outcome.code == "OK"  # the same request
    assert await refused(vote(broker, "main", waiting)) == "NOT_AWAITING_APPROVAL"
    assert counter.launch.effects == ["the rocket"]


async def test_an_approver_sees_what_would_happen(broker: Any, governance: Any, counter: Any) -> None:
    """Rendered from the very parameters, with their digest, who may not vote, and what is still needed."""
    waiting = await ask(broker, governance, "the rocket of broker-secret")
    await ask(broker, governance, "another")
    one, other = await pending(broker)
    assert one.call.call_id == waiting.call_id
    assert json.loads(one.rendered) == {"text": "the rocket of broker-secret"}
    assert one.params_digest == waiting.facts["params_digest"] != other.params_digest
    assert list(one.excluded) == ["group:developer"]
    assert (one.votes_needed, one.operator_needed) == (2, True)
    await vote(broker, "operator:ana", waiting)
    one, _ = await pending(broker)
    assert (one.votes_needed, one.operator_needed) == (1, False)
    paged = await broker.founder.ListPendingCalls(pb.ListPendingCallsRequest(page_size=1))
    rest = pb.ListPendingCallsRequest(page_size=1, page_token=paged.next_page_token)
    assert [one.call.call_id for one in (await broker.founder.ListPendingCalls(rest)).calls] == [other.call.call_id]


async def test_who_sees_what_waits(broker: Any, governance: Any) -> None:
    """People and main all; a group what it asked for and what its gate is about; others nothing."""
    await ask(broker, governance)
    for who, seen in (("developer", 1), ("main", 1), ("security", 1), ("sales", 0)):
        assert len(await pending(broker, group=who)) == seen, who
    assert len(await pending(broker, stub=broker.stub("operator:vera"))) == 1


@pytest.mark.parametrize(
    ("who", "task", "reason"),
    [
        ("developer", {}, "VOTE_NOT_YOURS"),
        ("sales", {}, "CALL_NOT_FOUND"),
        ("main", {"executors": ["group:developer", "group:main"]}, "VOTE_NOT_YOURS"),
        ("security", {"executors": ["group:security"]}, "VOTE_NOT_YOURS"),
        ("operator:ana", {"executors": ["operator:ana"]}, "VOTE_NOT_YOURS"),
        ("operator:vera", {}, "NOT_PERMITTED"),
    ],
)
async def test_who_has_no_vote(
    broker: Any, governance: Any, counter: Any, who: str, task: dict[str, Any], reason: str
) -> None:
    """The group that asked, executors of the task, groups that it does not concern, people who may only look."""
    waiting = await ask(broker, governance)
    governance.tasks["t1"].MergeFrom(gov.Task(**task))
    assert await refused(vote(broker, who, waiting)) == reason
    assert (await broker.record(waiting.call_id)).votes == []


async def test_one_party_has_one_vote_and_one_must_be_a_person(broker: Any, governance: Any, counter: Any) -> None:
    """Two groups do not do; a third vote by a person does. Nobody votes twice."""
    waiting = await ask(broker, governance)
    await vote(broker, "security", waiting)
    assert await refused(vote(broker, "security", waiting, request_id="twice")) == "ALREADY_VOTED"
    assert (await vote(broker, "main", waiting)).call.state == WAITS
    (one,) = await pending(broker)
    assert (one.votes_needed, one.operator_needed) == (1, True)
    assert counter.effects == 0
    assert (await vote(broker, "operator:ana", waiting)).outcome.code == "OK"
    assert counter.effects == 1


async def test_groups_are_enough_where_no_operator_is_required(start: Any, governance: Any, counter: Any) -> None:
    """NANOCLAW_BROKER_L3_REQUIRES_OPERATOR=0."""
    async with start(l3_requires_operator=False) as broker:
        waiting = await ask(broker, governance)
        await vote(broker, "security", waiting)
        assert (await vote(broker, "main", waiting)).outcome.code == "OK"


async def test_two_people_are_enough(broker: Any, governance: Any, counter: Any) -> None:
    """Each operator is a party of its own."""
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    assert (await vote(broker, "operator:founder", waiting)).outcome.code == "OK"


async def test_a_vote_is_for_the_parameters_that_were_shown(broker: Any, governance: Any) -> None:
    """Another digest is refused, of another call's too, for a rejection too."""
    waiting, other = await ask(broker, governance), await ask(broker, governance, "another")
    for rpc in ("ApproveCall", "RejectCall"):
        for digest in ("", "0" * 64, other.facts["params_digest"]):
            assert await refused(vote(broker, "operator:ana", waiting, rpc, params_digest=digest)) == "DIGEST_MISMATCH"
    assert await refused(vote(broker, "operator:ana", pb.CallResponse(call_id="nope"))) == "CALL_NOT_FOUND"
    assert await refused(vote(broker, "operator:ana", waiting, notes="x" * 501)) == "INVALID_FIELD"
    assert await refused(vote(broker, "operator:ana", waiting, request_id="")) == "INVALID_FIELD"


async def test_a_vote_against_it_ends_it(broker: Any, governance: Any, counter: Any) -> None:
    """REJECTED by whom and why; its parameters are gone, its key answers the same, nobody votes any more."""
    waiting = await ask(broker, governance, idempotency_key="k")
    await vote(broker, "operator:ana", waiting)
    ended = await vote(broker, "operator:founder", waiting, "RejectCall", notes="not on a Friday")
    assert (ended.call.state, ended.call.code) == (pb.CALL_STATE_REJECTED, "APPROVAL_REJECTED")
    assert "operator:founder voted against it: not on a Friday" in ended.call.reason
    again = await ask(broker, governance, idempotency_key="k")
    assert (again.status, again.code, again.replayed) == (pb.CALL_STATUS_DENIED, "APPROVAL_REJECTED", True)
    assert await refused(vote(broker, "security", waiting)) == "NOT_AWAITING_APPROVAL"
    assert await pending(broker) == []
    assert kept(broker) == 0
    assert counter.effects == 0


async def test_who_asked_may_take_it_back(broker: Any, governance: Any, governance_server: Any) -> None:
    """The group that asked rejects its own call, also without governance; another group can't."""
    waiting = await ask(broker, governance)
    assert await refused(vote(broker, "sales", waiting, "RejectCall")) == "CALL_NOT_FOUND"
    await governance_server.stop()
    ended = await vote(broker, "developer", waiting, "RejectCall")
    assert (ended.call.state, ended.call.votes[0].principal) == (pb.CALL_STATE_REJECTED, "group:developer")


async def test_without_governance_nobody_votes(
    broker: Any, governance: Any, governance_server: Any, counter: Any
) -> None:
    """Who executed is not known, so the vote is refused and the call goes on waiting."""
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    await governance_server.stop()
    assert await refused(vote(broker, "operator:founder", waiting)) == "GOVERNANCE_UNAVAILABLE"
    await governance_server.start()
    assert (await vote(broker, "operator:founder", waiting)).outcome.code == "OK"
    assert counter.effects == 1


@pytest.mark.parametrize(
    "moved", ["version", "state", "assigned", "approval", "renewed", "revoked", "narrowed", "waived", "policy"]
)
async def test_what_it_rests_on_must_not_move(
    broker: Any, governance: Any, counter: Any, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    """Task, grant or policy moved between the votes: void, EXPIRED, nothing executed, and asked anew it waits anew."""
    waiting = await ask(broker, governance, request_id="first")
    await vote(broker, "operator:ana", waiting)
    task = governance.tasks["t1"]
    match moved:
        case "version":
            task.version += 1
        case "state":
            task.state = gov.TASK_STATE_REVIEW
        case "assigned":
            task.assigned_group = "sales"
        case "approval":
            governance.live["t1"] = []
        case "renewed":
            await broker.grant("count", L3)
        case "revoked":
            await broker.revoke()
        case "narrowed":
            await broker.grant("count", L3, denied_actions=["launch"])
        case "waived":
            await broker.grant("count", L2, allow_unverified=True)
        case "policy":
            for module in ("pendings", "checks.votes"):
                monkeypatch.setattr(f"nanoclaw_broker.{module}.POLICY_VERSION", "9.9.9")
    assert await refused(vote(broker, "security", waiting)) == "APPROVAL_VOID"
    record = await broker.record(waiting.call_id)
    assert (record.state, record.code, counter.effects) == (pb.CALL_STATE_EXPIRED, "APPROVAL_VOID", 0)
    again = await broker.call("count", "launch", {"text": "the rocket"}, task_id="t1", request_id="first")
    assert (again.code, again.replayed) == ("APPROVAL_VOID", True)
    assert await refused(vote(broker, "security", waiting)) == "APPROVAL_VOID"
    assert kept(broker) == 0


async def test_a_grant_that_moved_is_seen_when_somebody_looks(broker: Any, governance: Any) -> None:
    """Also without a vote: at GetCall, and when the agent asks again."""
    one, other = await ask(broker, governance, request_id="one"), await ask(broker, governance, request_id="other")
    await broker.revoke()
    assert (await broker.record(one.call_id)).code == "APPROVAL_VOID"
    assert (await ask(broker, governance, request_id="other")).code == "APPROVAL_VOID"
    assert (await broker.record(other.call_id)).state == pb.CALL_STATE_EXPIRED


async def test_without_its_votes_in_time_it_expires(start: Any, governance: Any, counter: Any) -> None:
    """At its moment, without anybody looking, and denied by nobody; late votes are refused."""
    async with start(approval_seconds=1) as broker:
        waiting = await ask(broker, governance, idempotency_key="k")
        await vote(broker, "operator:ana", waiting)
        async with asyncio.timeout(10):
            while ended(broker, waiting.call_id) != "EXPIRED":  # read from the disk, so that nothing is touched
                await asyncio.sleep(0.02)
        record = await broker.record(waiting.call_id)
        assert (record.code, record.reason.startswith("it had not got its votes in time")) == ("APPROVAL_EXPIRED", True)
        assert await refused(vote(broker, "security", waiting)) == "APPROVAL_EXPIRED"
        assert (await ask(broker, governance, idempotency_key="k")).code == "APPROVAL_EXPIRED"
        assert counter.effects == 0
        assert kept(broker) == 0


async def test_a_vote_that_comes_before_the_sweep_is_as_late(
    start: Any, governance: Any, counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over at its moment, whoever notices first: a vote, a look, the agent that asks again."""

    async def never(_: Lapsing) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Lapsing, "run", never)
    async with start(approval_seconds=1, rate_l3=5) as broker:
        voted = await ask(broker, governance, "voted")
        looked, again = await ask(broker, governance, "looked"), await ask(broker, governance, "again", request_id="r")
        await vote(broker, "operator:ana", voted)
        last = (await broker.record(again.call_id)).approval_expires_at.ToDatetime(UTC)
        while datetime.now(UTC) <= last:
            await asyncio.sleep(0.02)
        assert [ended(broker, one.call_id) for one in (voted, looked, again)] == ["AWAITING_APPROVAL"] * 3
        assert await pending(broker) == []
        assert await refused(vote(broker, "security", voted)) == "APPROVAL_EXPIRED"
        assert (await broker.record(looked.call_id)).code == "APPROVAL_EXPIRED"
        assert (await ask(broker, governance, "again", request_id="r")).code == "APPROVAL_EXPIRED"
        assert [ended(broker, one.call_id) for one in (voted, looked, again)] == ["EXPIRED"] * 3
        assert counter.effects == 0


def ended(broker: Any, call_id: str) -> str:
    with closing(sqlite3.connect(f"file:{broker.database}?mode=ro", uri=True)) as database:
        return str(database.execute("SELECT state FROM ext_calls WHERE call_id = ?", (call_id,)).fetchone()[0])


def kept(broker: Any) -> int:
    with closing(sqlite3.connect(f"file:{broker.database}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM ext_params").fetchone()[0])


async def test_the_parameters_lie_encrypted_until_it_is_over(broker: Any, governance: Any) -> None:
    """Nothing of them is on the disk in clear while it waits, and nothing at all afterwards."""
    waiting = await ask(broker, governance, "planted-in-the-parameters")
    assert kept(broker) == 1
    for file in broker.database.parent.iterdir():
        assert b"planted-in-the-parameters" not in file.read_bytes(), file
    await vote(broker, "operator:ana", waiting)
    await vote(broker, "security", waiting)
    assert kept(broker) == 0


@pytest.mark.parametrize("aim", [{}, {"group": "developer"}, {"provider": "count"}])
async def test_a_freeze_is_in_force_for_votes(broker: Any, governance: Any, counter: Any, aim: dict[str, str]) -> None:
    """The vote is refused and not cast; once the freeze is lifted it counts, since the call went on waiting."""
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    await broker.freeze(L2, **aim)
    assert await refused(vote(broker, "security", waiting)) == "FROZEN"
    record = await broker.record(waiting.call_id)
    assert (record.state, len(record.votes), counter.effects) == (WAITS, 1, 0)
    await broker.unfreeze(**aim)
    assert (await vote(broker, "security", waiting)).outcome.code == "OK"


async def test_what_may_pass_refuses_the_vote_and_leaves_the_call(
    broker: Any, governance: Any, counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters that can't be taken now, for a host's secret is missing; those that never will be end it."""

    def refuse(passing: bool) -> Any:
        def check(params: Any) -> None:
            raise Refused("HOST_SECRET_MISSING", "the broker lacks it", "add it", passing=passing)

        return check

    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    with monkeypatch.context() as patch:
        patch.setattr(counter.launch, "check", refuse(True))
        assert await refused(vote(broker, "security", waiting)) == "HOST_SECRET_MISSING"
        assert (await pending(broker))[0].rendered.endswith("can't be shown now: the broker lacks it")
    assert (await vote(broker, "security", waiting)).outcome.code == "OK"
    waiting = await ask(broker, governance, "another")
    await vote(broker, "operator:ana", waiting)
    monkeypatch.setattr(counter.launch, "check", refuse(False))
    assert await refused(vote(broker, "security", waiting)) == "APPROVAL_VOID"


async def test_a_busy_group_is_voted_for_later(start: Any, governance: Any, counter: Any) -> None:
    """Calls that wait do not make a group busy; where it is, the vote is refused for now."""
    counter.look.gate = asyncio.Event()
    async with start(pending=1, rate_l3=5) as broker:
        waiting = await ask(broker, governance)
        await ask(broker, governance, "another")
        await vote(broker, "operator:ana", waiting)
        under_way = asyncio.create_task(broker.call("count", "look"))
        await counter.look.entered.wait()
        assert await refused(vote(broker, "security", waiting)) == "BUSY"
        counter.look.gate.set()
        await under_way
        assert (await vote(broker, "security", waiting)).outcome.code == "OK"


async def test_asking_counts_for_the_rate_and_the_quota(start: Any, governance: Any) -> None:
    """A call of L3 is counted when it is asked for, not again when it is let go on."""
    async with start(rate_l3=2) as broker:
        waiting = await ask(broker, governance)
        await ask(broker, governance)
        assert (await ask(broker, governance)).code == "RATE_LIMITED"
        await vote(broker, "operator:ana", waiting)
        assert (await vote(broker, "security", waiting)).outcome.code == "OK"


async def test_an_l3_call_is_made_for_a_task_with_its_gate_approved(broker: Any, governance: Any) -> None:
    """No task, a task that is not under way, a gate that is not approved: each refused before anybody votes."""
    await broker.grant("count", L3)
    assert (await broker.call("count", "launch")).code == "TASK_REQUIRED"
    governance.put("t2", gate=gov.GATE_SECURITY)
    assert (await broker.call("count", "launch", task_id="t2")).code == "GATE_NOT_APPROVED"
    governance.put("t3", state=gov.TASK_STATE_REVIEW)
    assert (await broker.call("count", "launch", task_id="t3")).code == "TASK_STATE"
    governance.put("t4", gate=gov.GATE_NONE)
    assert (await broker.call("count", "launch", task_id="t4")).code == "APPROVAL_PENDING"
    explained = await broker.founder.ExplainCall(
        pb.ExplainCallRequest(provider="count", action="launch", task_id="t4", group="developer")
    )
    assert (explained.allowed, explained.code, explained.check) == (False, "APPROVAL_PENDING", "votes")
    assert explained.next_steps == ["have two principals approve the call once it is asked for, an operator among them"]


async def test_an_attempt_that_is_over_does_not_void_what_its_group_asked(broker: Any, governance: Any) -> None:
    """People vote hours later; binding a new attempt moves no version, and the group is the one that asked."""
    bound = gov.BoundAttempt(group="developer", attempt_id="nc-1", fence=1)
    waiting = await ask(broker, governance)
    governance.tasks["t1"].attempts.append(bound)
    other = await ask(broker, governance, "two", attempt="nc-1")
    governance.tasks["t1"].attempts[0].attempt_id = "nc-2"
    for one in (waiting, other):
        await vote(broker, "operator:ana", one)
        assert (await vote(broker, "security", one)).outcome.code == "OK"


async def test_the_last_votes_at_once_execute_it_once(broker: Any, governance: Any, counter: Any) -> None:
    """16 voters in the same moment, over RPC: one of them is the last, the others are told that there is none left."""
    governance.put("t1", approver_group="security")
    await broker.grant("count", L3)
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    votes = [vote(broker, "operator:founder", waiting, request_id=f"f{n}") for n in range(8)]
    votes += [vote(broker, who, waiting) for who in ("main", "security") for _ in range(4)]
    answers = await asyncio.gather(*votes, return_exceptions=True)
    reasons = {one.reason for one in answers if isinstance(one, NanoclawError)}
    assert reasons <= {"NOT_AWAITING_APPROVAL", "ALREADY_VOTED"}
    done = [one for one in answers if not isinstance(one, BaseException)]
    assert {one.outcome.code for one in done} == {"OK"}
    assert counter.launch.effects == ["the rocket"]
    assert len((await broker.record(waiting.call_id)).votes) == 2


async def test_a_vote_goes_on_without_who_cast_it(broker: Any, governance: Any, counter: Any) -> None:
    """The voter goes away while the call is under way; it ends, and the same request has the outcome."""
    counter.launch.gate = asyncio.Event()
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    last = asyncio.create_task(vote(broker, "security", waiting))
    await counter.launch.entered.wait()
    last.cancel()
    again = asyncio.create_task(vote(broker, "security", waiting))
    asking = asyncio.create_task(broker.call("count", "look"))
    await asking
    counter.launch.gate.set()
    assert (await again).outcome.code == "OK"
    assert counter.launch.effects == ["the rocket"]


async def test_a_last_vote_that_is_cut_off_after_its_commit_is_carried_out(
    broker: Any, governance: Any, counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The votes are used up in that very moment; who cast the last one goes away before anything was sent."""
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    write, committed, go_on = Database.write, asyncio.Event(), asyncio.Event()

    async def held_up(self: Database, unit: Any) -> Any:
        written = await write(self, unit)
        if isinstance(written, pb.ApproveCallResponse) and not go_on.is_set():
            committed.set()
            await go_on.wait()
        return written

    monkeypatch.setattr(Database, "write", held_up)
    last = asyncio.create_task(vote(broker, "security", waiting))
    await committed.wait()
    last.cancel()
    await broker.call("count", "look")  # on the same connection: by now the broker knows that the voter is gone
    go_on.set()
    assert (await vote(broker, "security", waiting)).outcome.code == "OK"
    assert counter.launch.effects == ["the rocket"]


async def test_who_asks_while_it_is_let_go_on_waits_for_the_outcome(broker: Any, governance: Any, counter: Any) -> None:
    """The agent that asks again in that moment gets the outcome, not that it is pending."""
    counter.launch.gate = asyncio.Event()
    waiting = await ask(broker, governance, request_id="mine")
    await vote(broker, "operator:ana", waiting)
    last = asyncio.create_task(vote(broker, "security", waiting))
    await counter.launch.entered.wait()
    asking = asyncio.create_task(ask(broker, governance, request_id="mine"))
    await broker.call("count", "look")
    counter.launch.gate.set()
    assert (await asking).code == "OK"
    assert (await last).outcome.code == "OK"


async def test_a_call_without_a_reply_is_unknown_to_voters_too(broker: Any, governance: Any, counter: Any) -> None:
    """The votes are used up; nobody repeats it."""

    def break_off(_: Any) -> Any:
        raise RuntimeError("reset")

    counter.launch.then = break_off
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    last = await vote(broker, "security", waiting)
    assert (last.call.state, last.outcome.code) == (pb.CALL_STATE_UNKNOWN, "EFFECT_UNKNOWN")
    assert await refused(vote(broker, "main", waiting)) == "NOT_AWAITING_APPROVAL"


async def test_a_stale_reading_is_not_voted_on(
    broker: Any, governance: Any, counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What governance said more than a second before the votes are used up is asked again."""
    waiting = await ask(broker, governance)
    await vote(broker, "operator:ana", waiting)
    fresh = iter([False, True])
    monkeypatch.setattr("nanoclaw_broker.governance.Reading.fresh", lambda *_: next(fresh))
    asked = len(governance.asked)
    assert (await vote(broker, "security", waiting)).outcome.code == "OK"
    assert len(governance.asked) == asked + 2


async def test_unknown_calls_are_listed_first_where_that_is_wanted(broker: Any, counter: Any) -> None:
    """Oldest UNKNOWN first, then the rest, newest first; page by page, nothing twice, under filters too."""
    await broker.grant("count", L2)
    answer = counter.add.then

    def break_off(note: Any) -> Any:
        if note.text == "lost":
            raise RuntimeError("reset")
        return answer(note)

    counter.add.then = break_off
    made = [(await broker.call("count", "add", {"text": text})).call_id for text in ("a", "lost", "b", "lost", "c")]
    wanted = [made[1], made[3], made[4], made[2], made[0]]

    async def listed(**fields: Any) -> list[str]:
        seen, token = [], ""
        while True:
            request = pb.ListCallsRequest(unknown_first=True, page_token=token, **fields)
            page = await broker.founder.ListCalls(request)
            seen += [one.call_id for one in page.calls]
            token = page.next_page_token
            if not token:
                return seen

    for size in (1, 2, 3, 50):
        assert await listed(page_size=size) == wanted, size
    assert await listed(group="sales") == []
    assert await listed(provider="count", states=[pb.CALL_STATE_UNKNOWN], page_size=1) == wanted[:2]
    assert await listed(states=[pb.CALL_STATE_EXECUTED], page_size=2) == wanted[2:]
    for token in ("WyJ4Il0", "WyJ4IiwieSJd"):
        with pytest.raises(NanoclawError) as raised:
            await broker.founder.ListCalls(pb.ListCallsRequest(unknown_first=True, page_token=token))
        assert raised.value.kind is Kind.INVALID
