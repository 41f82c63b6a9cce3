"""`nanoclaw grant`, `call`, `dispatch`, `messages`: requests and answers."""

import json
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher
from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import Kind, NanoclawError


async def test_grant_revoke_and_capabilities(nanoclaw: Any, far_side: Any) -> None:
    """Levels, actions, gate and expiry as words."""
    far_side.answers["Grant"] = broker.GrantResponse(
        capability=broker.Capability(group="developer", provider="http", access_level=broker.ACCESS_LEVEL_L2)
    )
    far_side.answers["Revoke"] = broker.RevokeResponse(changed=True)
    ran = await nanoclaw(
        *("grant", "developer", "http", "l2", "--allow", "get", "--allow", "head", "--deny", "delete"),
        *("--gate", "security", "--product", "p1", "--expires", "12h"),
    )
    assert "granted" in ran.out
    (request,) = far_side.requests("Grant")
    assert request.access_level == broker.ACCESS_LEVEL_L2
    assert (list(request.allowed_actions), list(request.denied_actions)) == (["get", "head"], ["delete"])
    assert (request.requires_task_gate, request.product_id, request.HasField("expires_at")) == ("Security", "p1", True)
    assert (await nanoclaw("revoke", "developer", "http", "-r", "done")).out == "developer lost http\n"
    far_side.answers["ListCapabilities"] = broker.ListCapabilitiesResponse(
        capabilities=[
            broker.GroupCapability(
                capability=broker.Capability(group="developer", provider="json"),
                actions=[broker.ActionStatus(name="transform", status="available")],
            )
        ]
    )
    ran = await nanoclaw("capabilities", "developer")
    assert "transform" in ran.out
    assert far_side.requests("ListCapabilities")[0].group == "developer"


async def test_without_an_expiry_the_broker_decides_it(nanoclaw: Any, far_side: Any) -> None:
    """Unset is not a time in 1970."""
    await nanoclaw("grant", "developer", "json", "L1")
    assert not far_side.requests("Grant")[0].HasField("expires_at")


async def test_a_call_shows_its_data_and_a_denied_one_exits_1(nanoclaw: Any, far_side: Any) -> None:
    """The answer is data either way; the exit code tells a script."""
    far_side.answers["Call"] = broker.CallResponse(
        status=broker.CALL_STATUS_EXECUTED, code="OK", data_json='{"sum": 3}', call_id="c1"
    )
    ran = await nanoclaw("call", "make", "json", "transform", '{"a": 1}', "--task", "t1", "--idempotency-key", "k")
    assert ran.code == 0
    assert '"sum": 3' in ran.out
    (request,) = far_side.requests("Call")
    assert json.loads(request.params_json) == {"a": 1}
    assert (request.task_id, request.idempotency_key) == ("t1", "k")
    far_side.answers["Call"] = broker.CallResponse(
        status=broker.CALL_STATUS_DENIED, code="NO_CAPABILITY", next_steps=["grant json L1"]
    )
    ran = await nanoclaw("call", "make", "json", "transform")
    assert ran.code == 1
    assert "NO_CAPABILITY" in ran.out
    assert "grant json L1" in ran.out
    assert (await nanoclaw("call", "make", "json", "transform", "--json")).json["status"] == "CALL_STATUS_DENIED"


async def test_explain_get_list_and_providers(nanoclaw: Any, far_side: Any) -> None:
    """Looking things up."""
    far_side.answers["ExplainCall"] = broker.ExplainCallResponse(
        code="NO_CAPABILITY", check="capability", check_number=9
    )
    ran = await nanoclaw("call", "explain", "http", "get", "{}", "-g", "developer")
    assert "it would be denied" in ran.out
    assert "check 9, capability" in ran.out
    record = broker.CallRecord(call_id="c1", provider="http", action="get", state=broker.CALL_STATE_UNKNOWN)
    far_side.answers["GetCall"] = broker.GetCallResponse(call=record)
    assert "http.get" in (await nanoclaw("call", "get", "c1")).out
    far_side.answers["ListCalls"] = broker.ListCallsResponse(calls=[record])
    assert "UNKNOWN" in (await nanoclaw("call", "list", "--state", "unknown")).out
    assert list(far_side.requests("ListCalls")[0].states) == [broker.CALL_STATE_UNKNOWN]
    far_side.answers["ListProviders"] = broker.ListProvidersResponse(providers=[broker.Provider(name="json")])
    assert "json" in (await nanoclaw("call", "providers")).out


DISPATCH = dispatcher.Dispatch(
    id="d1",
    key="t1:READY->DOING:v3",
    task_id="t1",
    group="developer",
    state=dispatcher.DISPATCH_STATE_FAILED,
    attempts=[
        dispatcher.Attempt(id="nc-1-1", outcome="EXITED", exit_code=1, last_lines="nanoclaw agent: no luck\n", number=1)
    ],
)


async def test_dispatches_are_listed_shown_retried_and_cancelled(nanoclaw: Any, far_side: Any) -> None:
    """With what the last attempt wrote."""
    far_side.answers |= {
        "ListDispatches": dispatcher.ListDispatchesResponse(dispatches=[DISPATCH]),
        "GetDispatch": dispatcher.GetDispatchResponse(dispatch=DISPATCH),
        "RetryDispatch": dispatcher.RetryDispatchResponse(dispatch=DISPATCH),
        "CancelDispatch": dispatcher.CancelDispatchResponse(dispatch=DISPATCH, changed=True),
        "ListGroups": dispatcher.ListGroupsResponse(groups=[dispatcher.Group(name="developer", wip_limit=3)]),
    }
    assert "FAILED" in (await nanoclaw("dispatch", "list", "--state", "failed", "--task", "t1")).out
    assert list(far_side.requests("ListDispatches")[0].states) == [dispatcher.DISPATCH_STATE_FAILED]
    ran = await nanoclaw("dispatch", "get", "t1:READY->DOING:v3")
    assert "nanoclaw agent: no luck" in ran.out
    assert "exit 1" in ran.out
    assert "it is tried again" in (await nanoclaw("dispatch", "retry", "d1")).out
    assert "cancelled" in (await nanoclaw("dispatch", "cancel", "d1", "-r", "wrong task")).out
    assert far_side.requests("CancelDispatch")[0].reason == "wrong task"
    assert "reference agent" in (await nanoclaw("dispatch", "groups")).out


async def test_dispatch_watch_goes_on_after_its_last_row(nanoclaw: Any, far_side: Any) -> None:
    """Over a restart of the dispatcher; it ends here by an error that no waiting helps against."""
    streams = [
        [dispatcher.WatchDispatchesResponse(seq=4, dispatch=DISPATCH, action="start")],
        NanoclawError(Kind.UNAVAILABLE, "SHUTTING_DOWN", "back soon"),
        NanoclawError(Kind.PRECONDITION, "CURSOR_INVALID", "no such row"),
    ]
    far_side.answers["WatchDispatches"] = lambda request: streams.pop(0)
    ran = await nanoclaw("dispatch", "watch")
    assert "start" in ran.out
    assert ran.err.startswith("error CURSOR_INVALID")
    watched = far_side.requests("WatchDispatches")
    assert [(one.HasField("after_seq"), one.after_seq) for one in watched] == [(False, 0), (True, 4), (True, 4)]


async def test_messages_are_listed_followed_and_answered(nanoclaw: Any, far_side: Any) -> None:
    """What agents say, and what they are told."""
    message = gateway.Message(seq=3, id="m1", group="developer", text="I have begun")
    far_side.answers |= {
        "ListMessages": gateway.ListMessagesResponse(messages=[message]),
        "Reply": gateway.ReplyResponse(message=message),
        "WatchMessages": lambda request: NanoclawError(Kind.PRECONDITION, "CURSOR_INVALID", "no such row"),
    }
    assert "I have begun" in (await nanoclaw("messages")).out
    ran = await nanoclaw("messages", "--follow")
    assert "group:developer: I have begun" in ran.out
    assert far_side.requests("WatchMessages")[0].after_seq == 3
    assert (await nanoclaw("reply", "go on", "--to", "m1")).out == "left for group:developer\n"
    assert far_side.requests("Reply")[0].message_id == "m1"
    assert (await nanoclaw("reply", "go on")).code == 2


@pytest.mark.parametrize("time", ["soon", "7w", "99999999999d", "3000000d", "0001-01-01T00:00+10:00"])
async def test_a_time_that_is_none_is_refused_in_one_line(nanoclaw: Any, far_side: Any, time: str) -> None:
    """Also one beyond the years that there are."""
    ran = await nanoclaw("grant", "developer", "json", "L1", "--expires", time)
    assert ran.code == 2
    assert f"'{time}' is no time" in ran.err
    assert far_side.requests("Grant") == []


async def test_of_many_messages_the_last_ones_are_shown(nanoclaw: Any, far_side: Any) -> None:
    """What was said last is what waits for an answer."""
    pages = [
        gateway.ListMessagesResponse(
            messages=[gateway.Message(id="m1"), gateway.Message(id="m2")], next_page_token="2"
        ),
        gateway.ListMessagesResponse(messages=[gateway.Message(id="m3")]),
    ]
    for limit, shown in (("2", ["m2", "m3"]), ("0", ["m1", "m2", "m3"])):
        far_side.answers["ListMessages"] = list(pages)
        ran = await nanoclaw("messages", "--limit", limit, "--json")
        assert ([one["id"] for one in ran.json], ran.err) == (shown, "")


@pytest.mark.parametrize("words", [("task", "watch"), ("messages",), ("call", "list"), ("product", "list")])
async def test_every_command_has_json_and_help(nanoclaw: Any, words: tuple[str, ...]) -> None:
    """A sample of each shape."""
    ran = await nanoclaw(*words, "--help")
    assert ran.code == 0
    assert "--json" in ran.out


async def test_status_gathers_what_the_services_say(nanoclaw: Any, far_side: Any) -> None:
    """Counts by state, agents, groups, calls, files, messages."""
    far_side.answers |= {
        "ListGroups": dispatcher.ListGroupsResponse(
            groups=[dispatcher.Group(name="developer", running=1, doing=4, wip_limit=3)]
        ),
        "ListDispatches": dispatcher.ListDispatchesResponse(dispatches=[DISPATCH]),
    }
    ran = await nanoclaw("status", "--json")
    assert ran.code == 0
    assert all(one["serving"] for one in ran.json["services"].values())
    assert ran.json["tasks"] | {"INBOX": 0} == ran.json["tasks"]
    assert ran.json["dispatches"]["failed"] == 1
    assert ran.json["groups"] == {"developer": {"running": 1, "doing": 4, "wip_limit": 3}}
    assert ran.json["desired"] == "stopped"
    words = (await nanoclaw("status")).out
    assert "4 of 3 doing" in words
    assert "● governance" in words


async def test_status_without_services_still_answers(nanoclaw: Any) -> None:
    """It is the command for when nothing works."""
    ran = await nanoclaw("status", "--json")
    assert ran.code == 0
    assert not any(one["serving"] for one in ran.json["services"].values())
    assert "○ governance" in (await nanoclaw("status")).out


async def test_status_says_which_service_would_not_answer(nanoclaw: Any, far_side: Any) -> None:
    """One that refuses does not hide the others."""
    far_side.answers["GetStatus"] = NanoclawError(Kind.DENIED, "NOT_PERMITTED", "you may not")
    ran = await nanoclaw("status")
    assert ran.code == 0
    assert "NOT_PERMITTED: you may not" in ran.out
