"""Grants: who makes them, how long they last, in force for the very next call, and told to those who watch."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from point import Point

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import Kind as ActionKind
from nanoclaw_broker.providers import Provider
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import on_behalf

L1, L2, L3 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2, pb.ACCESS_LEVEL_L3


def in_seconds(seconds: float) -> Timestamp:
    """A moment from now."""
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return moment


async def granted_by_main(broker: Any, **fields: Any) -> pb.Capability:
    request = pb.GrantRequest(
        **{"request_id": "m1", "group": "developer", "provider": "count", "access_level": L2} | fields
    )
    return (await broker.gateway.Grant(request, metadata=on_behalf("main"))).capability


async def test_main_and_admins_grant_up_to_level_two(broker: Any) -> None:
    """The grant names who made it; L2 ends after 7 days unless sooner, L1 does not end."""
    by_main = await granted_by_main(broker)
    assert (by_main.granted_by, by_main.access_level, by_main.active) == ("group:main", L2, True)
    lasts = by_main.expires_at.ToDatetime(UTC) - by_main.granted_at.ToDatetime(UTC)
    assert lasts == timedelta(days=7)
    by_founder = await broker.grant("json", L1)
    assert by_founder.granted_by == "operator:founder"
    assert not by_founder.HasField("expires_at")


async def test_level_three_is_granted_replaced_and_ended_by_admins_alone(broker: Any) -> None:
    """Main may neither make such a grant, nor put a lower one in its place, nor end it."""
    with pytest.raises(NanoclawError) as raised:
        await granted_by_main(broker, access_level=L3)
    assert raised.value.reason == "L3_NEEDS_ADMIN"
    granted = await broker.grant("count", L3)
    assert granted.expires_at.ToDatetime(UTC) - granted.granted_at.ToDatetime(UTC) == timedelta(days=7)
    revoke = pb.RevokeRequest(request_id="m2", group="developer", provider="count")
    for refused in (
        granted_by_main(broker),
        broker.gateway.Revoke(revoke, metadata=on_behalf("main")),
    ):
        with pytest.raises(NanoclawError) as raised:
            await refused
        assert raised.value.reason == "L3_NEEDS_ADMIN"
    assert (await broker.revoke()).changed
    assert (await granted_by_main(broker)).access_level == L2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"access_level": 0}, "INVALID_FIELD"),
        ({"access_level": pb.ACCESS_LEVEL_L0}, "INVALID_FIELD"),
        ({"access_level": 77}, "INVALID_FIELD"),
        ({"group": "No Such"}, "INVALID_FIELD"),
        ({"group": ""}, "INVALID_FIELD"),
        ({"provider": "nope"}, "PROVIDER_NOT_FOUND"),
        ({"provider": ""}, "INVALID_FIELD"),
        ({"product_id": "../x"}, "INVALID_FIELD"),
        ({"denied_actions": ["ad"]}, "ACTION_NOT_FOUND"),
        ({"allowed_actions": ["fly"]}, "ACTION_NOT_FOUND"),
        ({"requires_task_gate": "Sekurity"}, "INVALID_FIELD"),
        ({"expires_at": in_seconds(-1)}, "INVALID_FIELD"),
        ({"expires_at": in_seconds(7 * 86400 + 3600)}, "EXPIRY_TOO_LATE"),
        ({"request_id": ""}, "INVALID_FIELD"),
    ],
)
async def test_a_grant_that_makes_no_sense_is_refused(broker: Any, fields: dict[str, Any], reason: str) -> None:
    """A misspelt denial would deny nothing; a year of L2 is not to be had."""
    with pytest.raises(NanoclawError) as raised:
        await broker.grant(**{"level": fields.pop("access_level", L2)} | fields) if "request_id" not in fields else (
            await broker.founder.Grant(pb.GrantRequest(group="developer", provider="count", access_level=L2))
        )
    assert raised.value.reason == reason
    assert not (await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())).capabilities


async def test_granting_again_renews(broker: Any) -> None:
    """One row per group, provider and product: the later grant takes the earlier one's place, whole."""
    first = await broker.grant("count", L2, denied_actions=["drop"])
    second = await broker.grant("count", L1, expires_at=in_seconds(60))
    assert second.id == first.id
    assert (second.access_level, list(second.denied_actions)) == (L1, [])
    other = await broker.grant("count", L2, product_id="p1")
    assert other.id != first.id
    listed = await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest(group="developer"))
    assert [one.capability.product_id for one in listed.capabilities] == ["", "p1"]


async def test_a_grant_is_for_a_product_that_there_is(broker: Any, governance: Any) -> None:
    """A misspelt product would grant nothing, silently: it is refused. A name stands for the product's id."""
    governance.no_products.add("atals")
    with pytest.raises(NanoclawError) as raised:
        await broker.grant("count", L2, product_id="atals")
    assert (raised.value.kind, raised.value.reason) == (Kind.NOT_FOUND, "PRODUCT_NOT_FOUND")
    assert not (await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())).capabilities
    governance.named["Atlas"] = "p-1"
    assert (await broker.grant("count", L2, product_id="Atlas")).product_id == "p-1"


async def test_a_grant_for_a_product_needs_governance(broker: Any, governance_server: Any) -> None:
    """Nobody else knows whether there is one; a grant for all of them goes on."""
    await governance_server.stop()
    with pytest.raises(NanoclawError) as raised:
        await broker.grant("count", L2, product_id="atlas")
    assert (raised.value.kind, raised.value.reason) == (Kind.UNAVAILABLE, "GOVERNANCE_UNAVAILABLE")
    assert (await broker.grant("count", L2)).active


async def test_the_same_grant_request_is_made_once(broker: Any) -> None:
    """The same request_id answers the same; with another body it is refused."""
    request = pb.GrantRequest(request_id="once", group="developer", provider="count", access_level=L2)
    first = await broker.founder.Grant(request)
    await broker.revoke()
    assert await broker.founder.Grant(request) == first
    assert (await broker.call("count", "look")).code == "NO_CAPABILITY"
    request.access_level = L1
    with pytest.raises(NanoclawError) as raised:
        await broker.founder.Grant(request)
    assert raised.value.reason == "REQUEST_ID_REUSED"


async def test_a_revoke_is_in_force_for_the_next_call(broker: Any) -> None:
    """Answered means ended; a second revoke changes nothing."""
    await broker.grant("count", L2)
    assert (await broker.call("count", "look")).code == "OK"
    ended = await broker.revoke()
    assert (ended.changed, ended.capability.active) == (True, False)
    assert (await broker.call("count", "look")).code == "NO_CAPABILITY"
    assert not (await broker.revoke()).changed
    assert not (await broker.revoke(provider="json")).changed
    await broker.grant("count", L1)
    assert (await broker.call("count", "look")).code == "OK"


async def test_an_expiry_is_in_force_for_the_next_call(broker: Any) -> None:
    """A grant ends at its moment without anybody doing anything; the denial offers the renewal that is needed."""
    await broker.grant("count", L2)
    assert (await broker.call("count", "look")).code == "OK"
    watch = broker.founder.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=20)
    before = (await watch.read()).revision
    await broker.grant("count", L2, expires_at=in_seconds(0.8))
    while (await watch.read()).revision < before + 3:  # a renewal counts two; that it has ended is told, too
        pass
    watch.cancel()
    denied = await broker.call("count", "look")
    assert denied.code == "CAPABILITY_EXPIRED"
    assert "grant developer count L1, actions look" in denied.next_steps[0]
    listed = await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())
    assert not listed.capabilities
    everything = await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest(include_inactive=True))
    assert [one.capability.active for one in everything.capabilities] == [False]


async def test_watchers_are_told_of_every_change(broker: Any) -> None:
    """The mark rises with each grant, renewal and revoke; a watcher that comes later begins with the present one."""
    watch = broker.gateway.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=10)
    seen = [(await watch.read()).revision]
    for change in (broker.grant("count", L2), broker.grant("count", L1), broker.revoke(), broker.grant("json", L1)):
        await change
        seen.append((await watch.read()).revision)
    assert seen == sorted(set(seen))
    watch.cancel()
    later = broker.gateway.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=10)
    assert (await later.read()).revision == seen[-1]
    later.cancel()


async def test_watchers_do_not_keep_the_broker_from_stopping(start: Any) -> None:
    """A stop ends the stream with UNAVAILABLE."""
    async with start() as broker:
        watch = broker.gateway.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=30)
        await watch.read()
    with pytest.raises(NanoclawError) as raised:
        await asyncio.wait_for(watch.read(), 5)
    assert raised.value.kind is Kind.UNAVAILABLE


async def test_each_action_has_a_status_for_the_group(broker: Any) -> None:
    """available, requires_higher_level or DENIED, with the parameters' schema: what ext_capabilities.json shows."""
    await broker.grant("count", L2, denied_actions=["drop"])
    (one,) = (await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())).capabilities
    assert {action.name: action.status for action in one.actions} == {
        "look": "available",
        "compute": "available",
        "add": "available",
        "drop": "DENIED",
        "launch": "requires_higher_level",
        "send": "requires_higher_level",
    }
    assert '"text"' in one.actions[0].params_schema_json
    for action in one.actions:
        answer = await broker.call("count", action.name)
        assert (answer.code == "OK") is (action.status == "available")


async def test_an_action_is_available_where_some_parameters_are(start: Any, home: Path) -> None:
    """POST is L3, but L2 to a host that honours keys: shown as available, and as denied by a freeze below that only."""
    (home / "config").mkdir()
    (home / "config" / "providers.toml").write_text(
        '[http.write."127.0.0.1:9"]\nidempotency_key = true\n[http.write."127.0.0.1:8"]\n'
    )

    async def shown(broker: Any) -> tuple[Any, ...]:
        (one,) = (await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())).capabilities
        (post,) = (action for action in one.actions if action.name == "post")
        return post.status, post.least_level, post.level, post.kind

    async with start() as broker:
        await broker.grant("http", L2)
        assert await shown(broker) == ("available", L2, L3, pb.ACTION_KIND_MUTATING)
        assert (await broker.call("http", "post", {"url": "http://127.0.0.1:9/"})).code == "CONNECTION_FAILED"
        assert (await broker.call("http", "post", {"url": "http://127.0.0.1:8/"})).code == "LEVEL_TOO_LOW"
        await broker.freeze(L2)
        assert (await shown(broker))[0] == "available"
        await broker.freeze(L1)
        assert (await shown(broker))[0] == "DENIED"


async def test_lists_are_paged(broker: Any) -> None:
    """Grants in the order of group, provider and product; calls newest first; providers by name; nothing twice."""
    for group in ("a", "b", "c"):
        await broker.grant("count", L1, group=group)
        await broker.grant("count", L1, group=group, product_id="p")
    seen, token = [], ""
    while True:
        page = await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest(page_size=4, page_token=token))
        seen += [(one.capability.group, one.capability.product_id) for one in page.capabilities]
        token = page.next_page_token
        if not token:
            break
    assert seen == [(group, product) for group in "abc" for product in ("", "p")]
    calls = [(await broker.call("count", "look", group=group)).call_id for group in ("a", "b", "a", "c", "a")]
    listed, token = [], ""
    while True:
        answer = await broker.founder.ListCalls(pb.ListCallsRequest(page_size=2, page_token=token))
        listed += [call.call_id for call in answer.calls]
        token = answer.next_page_token
        if not token:
            break
    assert listed == calls[::-1]
    names, token = [], ""
    while True:
        found = await broker.founder.ListProviders(pb.ListProvidersRequest(page_size=2, page_token=token))
        names += [one.name for one in found.providers]
        token = found.next_page_token
        if not token:
            break
    assert names == sorted(names)
    assert {"count", "http", "json", "locked", "logs"} <= set(names)
    for bad in ("x", "WzFd"):
        with pytest.raises(NanoclawError):
            await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest(page_token=bad))


async def test_calls_are_listed_by_filters(broker: Any, governance: Any) -> None:
    """Group, provider, task and states; all given must hold."""
    governance.put("t1")
    await broker.grant("count", L1)
    await broker.grant("json", L1, group="sales")
    by_task = await broker.call("count", "look", task_id="t1")
    denied = await broker.call("count", "add")
    by_sales = await broker.call("json", "transform", {"expression": "@", "data": 1}, group="sales")

    async def ids(**filters: Any) -> list[str]:
        return [call.call_id for call in (await broker.founder.ListCalls(pb.ListCallsRequest(**filters))).calls]

    assert await ids() == [by_sales.call_id, denied.call_id, by_task.call_id]
    assert await ids(group="developer") == [denied.call_id, by_task.call_id]
    assert await ids(provider="json") == [by_sales.call_id]
    assert await ids(task_id="t1") == [by_task.call_id]
    assert await ids(states=[pb.CALL_STATE_DENIED, pb.CALL_STATE_FAILED]) == [denied.call_id]
    assert await ids(group="developer", provider="count", task_id="t1", states=[pb.CALL_STATE_EXECUTED]) == [
        by_task.call_id
    ]
    assert await ids(group="sales", task_id="t1") == []
    status = await broker.founder.GetStatus(pb.GetStatusRequest())
    assert {one.state: one.count for one in status.counts} == {pb.CALL_STATE_EXECUTED: 2, pb.CALL_STATE_DENIED: 1}
    assert {"count", "http", "json", "locked", "logs"} <= set(status.providers)


async def test_an_action_that_nobody_can_verify_needs_less_where_an_admin_accepts_that(broker: Any) -> None:
    """`send` is of L3, and of L2 under allow_unverified; the ledger says at which level it was made."""
    await broker.grant("count", L2)
    assert (await broker.call("count", "send")).facts["level_required"] == "L3"
    granted = await broker.grant("count", L2, allow_unverified=True)
    assert granted.allow_unverified
    answer = await broker.call("count", "send")
    assert answer.code == "OK"
    record = await broker.record(answer.call_id)
    assert record.level == L2
    (one,) = (await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())).capabilities
    shown = {action.name: (action.level, action.status) for action in one.actions}
    assert shown["send"] == (L2, "available")
    assert shown["launch"] == (L3, "requires_higher_level")
    await broker.grant("count", L2)  # granted again without it
    assert (await broker.call("count", "send")).code == "LEVEL_TOO_LOW"


async def test_only_an_admin_accepts_what_nobody_can_verify(broker: Any) -> None:
    """Main may grant L2, and not this."""
    with pytest.raises(NanoclawError) as raised:
        await granted_by_main(broker, allow_unverified=True)
    assert raised.value.reason == "UNVERIFIED_NEEDS_ADMIN"


async def test_a_freeze_looks_at_what_an_action_is_not_at_what_was_waived(broker: Any) -> None:
    """Frozen to L2, nothing goes out whose end can't be verified, whatever the grant says."""
    await broker.grant("count", L2, allow_unverified=True)
    await broker.freeze(L2)
    assert (await broker.call("count", "send")).code == "FROZEN"
    assert (await broker.call("count", "add")).code == "OK"


async def test_a_provider_of_thousands_of_actions_is_granted_as_any_other(start: Any, counter: Any) -> None:
    """A misspelt name is refused with names to choose among, and the grant that a denial suggests can be made."""
    made = type(counter.look)
    looks = [made(f"look_at_number_{number}", Level.L1, ActionKind.READ) for number in range(2000)]
    many = Provider("many", "counts", (*looks, counter.add))
    async with start(also=(Point("many", lambda _: many),)) as broker:
        with pytest.raises(NanoclawError) as refused:
            await broker.grant("many", L1, allowed_actions=["look_at_number_4", "fly"])
        assert (refused.value.reason, refused.value.message) == ("ACTION_NOT_FOUND", "many has no action fly")
        assert "look_at_number_10, " in refused.value.next_step
        await broker.grant("many", L1)
        denied = await broker.call("many", "add")
        assert denied.code == "LEVEL_TOO_LOW"
        request = json_format.ParseDict(json.loads(denied.facts["grant"]), pb.GrantRequest(request_id="as-suggested"))
        await broker.founder.Grant(request)
        assert (await broker.call("many", "add")).code == "OK"
        assert (await broker.call("many", "look_at_number_1999")).code == "OK"
        unknown = await broker.call("many", "fly")
        assert (unknown.code, len(str(unknown)) < 8000) == ("UNKNOWN_ACTION", True)
