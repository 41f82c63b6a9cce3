"""`nanoclaw calls`, `freeze`: people see what goes out, vote on what waits, and stop it."""

import io
import json
import re
import time
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.dispatcher.v1 import dispatcher_pb2
from nanoclaw.gateway.v1 import gateway_pb2
from nanoclaw.governance.v1 import governance_pb2
from nanoclaw_core.errors import Kind, NanoclawError


def record(call_id: str, state: int, **fields: Any) -> pb.CallRecord:
    made = pb.CallRecord(call_id=call_id, state=state, group="developer", provider="http", action="post", **fields)  # type: ignore[arg-type]
    made.created_at.FromSeconds(int(time.time()) - 7300)
    return made


PENDING = pb.PendingCall(
    call=record("c1", pb.CALL_STATE_AWAITING_APPROVAL, task_id="t1"),
    rendered="POST https://pay.example/orders",
    params_digest="d" * 64,
    excluded=["group:developer"],
    votes_needed=2,
    operator_needed=True,
)


async def test_calls_show_unknown_first_with_its_age(nanoclaw: Any, far_side: Any) -> None:
    """What nobody knows stands at the top, with how long ago it was asked for; filters go along."""
    far_side.answers["ListCalls"] = pb.ListCallsResponse(
        calls=[record("lost", pb.CALL_STATE_UNKNOWN), record("done", pb.CALL_STATE_EXECUTED)]
    )
    ran = await nanoclaw("calls", "-g", "developer", "--provider", "http", "--state", "unknown", "--limit", "9")
    lost, done = [line for line in ran.out.splitlines() if "http.post" in line]
    assert ("2 h" in lost, "lost" in lost, "2 h" in done) == (True, True, False)
    (request,) = far_side.requests("ListCalls")
    assert (request.unknown_first, request.group, request.provider) == (True, "developer", "http")
    assert (list(request.states), request.page_size) == ([pb.CALL_STATE_UNKNOWN], 9)
    ran = await nanoclaw("calls", "--json")
    assert [one["call_id"] for one in ran.json] == ["lost", "done"]


async def test_calls_are_followed(nanoclaw: Any, far_side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """New ones and those in another state are said, once each, also across a restart of the broker."""
    monkeypatch.setattr("nanoclaw_cli.calls.POLL_SECONDS", 0.01)
    sent, done = record("c1", pb.CALL_STATE_SENT), record("c1", pb.CALL_STATE_EXECUTED, code="OK")
    new = record("c2", pb.CALL_STATE_DENIED, code="FROZEN")
    answers = iter([[sent], [sent], NanoclawError(Kind.PRECONDITION, "STOP", "enough")])

    def answer(request: Any) -> Any:
        if request.unknown_first:
            return pb.ListCallsResponse(calls=[sent])
        found = next(answers)
        if isinstance(found, NanoclawError):
            return found
        return pb.ListCallsResponse(calls=[new, done])

    far_side.answers["ListCalls"] = answer
    ran = await nanoclaw("calls", "--follow", "--json")
    lines = [json.loads(line) for line in ran.out.splitlines() if "call_id" in line]
    assert [(one["call_id"], one["state"]) for one in lines] == [
        ("c1", "CALL_STATE_SENT"),
        ("c1", "CALL_STATE_EXECUTED"),
        ("c2", "CALL_STATE_DENIED"),
    ]


async def test_what_waits_is_shown_as_an_approver_sees_it(nanoclaw: Any, far_side: Any) -> None:
    """What would happen, for whom, who may not vote, what it still needs."""
    assert (await nanoclaw("calls", "pending")).out == "nothing waits for votes\n"
    far_side.answers["ListPendingCalls"] = pb.ListPendingCallsResponse(calls=[PENDING])
    ran = await nanoclaw("calls", "pending", "-g", "developer", "--task", "t1")
    for words in ("POST https://pay.example/orders", "developer, 2 h ago", "2 more, an operator's", "group:developer"):
        assert words in ran.out, words
    request = far_side.requests("ListPendingCalls")[-1]
    assert (request.group, request.task_id) == ("developer", "t1")
    assert (await nanoclaw("calls", "pending", "--json")).json[0]["params_digest"] == "d" * 64


@pytest.mark.parametrize(("said", "code", "votes"), [("y\n", 0, 1), ("n\n", 1, 0), ("", 1, 0)])
async def test_a_vote_is_for_what_was_shown(
    nanoclaw: Any, far_side: Any, monkeypatch: pytest.MonkeyPatch, said: str, code: int, votes: int
) -> None:
    """It shows, asks, and sends the digest of what it showed; no answer is no vote."""
    far_side.answers["ListPendingCalls"] = pb.ListPendingCallsResponse(calls=[PENDING])
    far_side.answers["ApproveCall"] = pb.ApproveCallResponse(call=PENDING.call)
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    ran = await nanoclaw("calls", "approve", "c1", "-n", "looked at it")
    assert ran.code == code
    assert "POST https://pay.example/orders" in ran.out
    sent = far_side.requests("ApproveCall")
    assert len(sent) == votes
    if votes:
        assert (sent[0].call_id, sent[0].params_digest, sent[0].notes) == ("c1", "d" * 64, "looked at it")
        assert "voted; it waits for another vote" in ran.out


async def test_the_last_vote_tells_the_outcome(nanoclaw: Any, far_side: Any) -> None:
    """And the exit code is that of the call."""
    far_side.answers["ListPendingCalls"] = pb.ListPendingCallsResponse(calls=[PENDING])
    for status, code in ((pb.CALL_STATUS_EXECUTED, 0), (pb.CALL_STATUS_TIMEOUT, 1)):
        outcome = pb.CallResponse(call_id="c1", status=status, code="X", summary="201 Created")
        far_side.answers["ApproveCall"] = pb.ApproveCallResponse(call=PENDING.call, outcome=outcome)
        ran = await nanoclaw("calls", "approve", "c1", "--yes", "--digest", "d" * 64)
        assert (ran.code, "201 Created" in ran.out) == (code, True)
        assert "POST https://pay.example/orders" in ran.out
    ran = await nanoclaw("calls", "approve", "c1", "--yes", "--digest", "d" * 64, "--json")
    assert ran.json["outcome"]["summary"] == "201 Created"


async def test_a_vote_on_something_else_is_not_sent(nanoclaw: Any, far_side: Any) -> None:
    """Another digest than what was looked at, none at all, a call that is over, a program that can't be asked."""
    far_side.answers["ListPendingCalls"] = pb.ListPendingCallsResponse(calls=[PENDING])
    over = record("c2", pb.CALL_STATE_EXPIRED, reason="it had not got its votes in time")
    far_side.answers["GetCall"] = pb.GetCallResponse(call=over)
    assert (await nanoclaw("calls", "approve", "c1", "--yes", "--digest", "e" * 64)).code == 2
    assert (await nanoclaw("calls", "approve", "c1", "--json")).code == 2
    ran = await nanoclaw("calls", "approve", "c1", "--yes")
    assert (ran.code, "say its --digest" in " ".join(ran.err.split())) == (2, True)
    ran = await nanoclaw("calls", "reject", "c2", "--yes")
    assert ran.code == 1
    said = "NOT_AWAITING_APPROVAL: call c2 is EXPIRED: it had not got its votes in time; there is nothing to vote on"
    assert said in ran.err
    assert not far_side.requests("ApproveCall")
    assert not far_side.requests("RejectCall")


async def test_a_call_is_rejected_and_another_settled(nanoclaw: Any, far_side: Any) -> None:
    """With notes; with an outcome in words."""
    far_side.answers["ListPendingCalls"] = pb.ListPendingCallsResponse(calls=[PENDING])
    far_side.answers["RejectCall"] = pb.RejectCallResponse(call=record("c1", pb.CALL_STATE_REJECTED, reason="no"))
    assert "rejected" in (await nanoclaw("calls", "reject", "c1", "-y", "-n", "not on a Friday")).out
    assert far_side.requests("RejectCall")[0].notes == "not on a Friday"
    far_side.answers["Settle"] = pb.SettleResponse(call=record("c3", pb.CALL_STATE_RECONCILED))
    assert "settled" in (await nanoclaw("calls", "settle", "c3", "did-not-happen", "-n", "looked there")).out
    (request,) = far_side.requests("Settle")
    assert (request.outcome, request.note) == (pb.SETTLE_OUTCOME_DID_NOT_HAPPEN, "looked there")


async def test_people_freeze_and_lift(nanoclaw: Any, far_side: Any) -> None:
    """All, a group or a provider; the list says what, to which level, why and by whom."""
    frozen = pb.CallFreeze(
        provider="http", max_level=pb.ACCESS_LEVEL_L1, reason="an incident", principal="operator:founder"
    )
    far_side.answers["Freeze"] = pb.FreezeResponse(freeze=frozen)
    assert "provider http" in (await nanoclaw("freeze", "l1", "--provider", "http", "-r", "an incident")).out
    (request,) = far_side.requests("Freeze")
    assert (request.max_level, request.provider, request.group) == (pb.ACCESS_LEVEL_L1, "http", "")
    assert request.request_id
    assert (await nanoclaw("freeze", "l0")).code == 2  # a reason is wanted
    assert (await nanoclaw("freezes")).out == "nothing is frozen\n"
    far_side.answers["ListFreezes"] = pb.ListFreezesResponse(freezes=[frozen])
    assert "an incident" in (await nanoclaw("freezes")).out
    assert (await nanoclaw("freezes", "--json")).json[0]["provider"] == "http"
    far_side.answers["Unfreeze"] = pb.UnfreezeResponse(changed=True)
    assert (await nanoclaw("unfreeze", "--provider", "http")).out == "provider http: no longer frozen\n"
    far_side.answers["Unfreeze"] = pb.UnfreezeResponse()
    assert (await nanoclaw("unfreeze")).out == "all calls: was not frozen\n"


async def test_a_grant_may_accept_what_nobody_can_verify(nanoclaw: Any, far_side: Any) -> None:
    """By name, never by default."""
    await nanoclaw("grant", "developer", "email", "L2", "--allow-unverified")
    await nanoclaw("grant", "developer", "email", "L2")
    assert [request.allow_unverified for request in far_side.requests("Grant")] == [True, False]


async def test_one_call_is_shown_whole_and_nothing_twice(nanoclaw: Any, far_side: Any) -> None:
    """Who voted which way, when and why; how it was settled; the answer, as far as it says more than the row."""
    cast = [
        pb.Vote(principal="operator:founder", approve=True, notes="looked at it"),
        pb.Vote(principal="group:security"),
    ]
    cast[0].voted_at.FromSeconds(1_700_000_000)
    row = record("c1", pb.CALL_STATE_EXECUTED, code="OK", result_summary="201 Created", votes=cast, cost_micros=5_000)
    row.settlement.MergeFrom(pb.Settlement(principal="operator:ann", note="saw it there"))
    row.settlement.outcome = pb.SETTLE_OUTCOME_HAPPENED
    told = pb.CallResponse(
        call_id="c1", status=pb.CALL_STATUS_EXECUTED, code="OK", summary="201 Created", data_json='{"n": 7}'
    )
    far_side.answers["GetCall"] = pb.GetCallResponse(call=row, answer=told)
    ran = await nanoclaw("call", "get", "c1")
    lines = [line.rstrip() for line in ran.out.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("votes"))
    assert re.fullmatch(r"votes +operator:founder approved 2023-11-1\S+ \S+: looked at it", lines[first])
    assert lines[first + 1].strip() == "group:security rejected"
    assert re.search(r"settled +happened by operator:ann: saw it there", ran.out)
    assert [ran.out.count(word) for word in ("201 Created", "OK", '"n": 7', "0.5000 cents")] == [1, 1, 1, 1]
    assert "c1" in ran.out.split()
    assert ran.out.split().count("c1") == 1
    far_side.answers["GetCall"] = pb.GetCallResponse(
        call=record("c2", pb.CALL_STATE_UNKNOWN, code="EFFECT_UNKNOWN"),
        answer=pb.CallResponse(status=pb.CALL_STATUS_DENIED, code="APPROVAL_PENDING"),
    )
    ran = await nanoclaw("call", "get", "c2")
    assert "2 h ago" in ran.out
    assert "denied, APPROVAL_PENDING" in ran.out


async def test_the_status_says_what_is_stopped_and_how_long_nobody_knows(nanoclaw: Any, far_side: Any) -> None:
    """The age of the oldest UNKNOWN call, freezes, and what is left alone since it is in trouble."""
    told = pb.GetStatusResponse(
        counts=[pb.CallStateCount(state=pb.CALL_STATE_UNKNOWN, count=2)],
        freezes=[pb.CallFreeze(provider="http", max_level=pb.ACCESS_LEVEL_L1)],
        breakers=[pb.Breaker(provider="github", state=pb.Breaker.STATE_OPEN)],
    )
    told.oldest_unknown_at.FromSeconds(int(time.time()) - 7300)

    others = [dispatcher_pb2, gateway_pb2, governance_pb2]

    def answer(request: Any) -> Any:
        if isinstance(request, pb.GetStatusRequest):
            return told
        return next(one.GetStatusResponse() for one in others if isinstance(request, one.GetStatusRequest))

    far_side.answers["GetStatus"] = answer
    lines = (await nanoclaw("status")).out.splitlines()
    assert any("unknown 2, the oldest unknown since 2 h" in line for line in lines)
    assert any("provider http: L1 at the most" in line for line in lines)
    assert any(line.split() == ["in", "trouble", "github"] for line in lines)
    status = (await nanoclaw("status", "--json")).json
    assert (status["oldest_unknown"], status["open_circuits"]) == ("2 h", ["github"])
