"""The kill switch: everybody, a group or a provider stopped at once, by whom, and lifted by whom."""

import asyncio
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import on_behalf

L0, L1, L2, L3 = pb.ACCESS_LEVEL_L0, pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2, pb.ACCESS_LEVEL_L3


async def by_main(broker: Any, level: Any, **fields: Any) -> pb.CallFreeze:
    request = pb.FreezeRequest(**{"request_id": f"m{level}", "max_level": level, "reason": "odd calls"} | fields)
    return (await broker.gateway.Freeze(request, metadata=on_behalf("main"))).freeze


@pytest.mark.parametrize(
    ("aim", "group", "provider", "stopped"),
    [
        ({}, "developer", "count", True),
        ({}, "sales", "json", True),
        ({"group": "developer"}, "developer", "json", True),
        ({"group": "developer"}, "sales", "count", False),
        ({"provider": "count"}, "sales", "count", True),
        ({"provider": "count"}, "developer", "json", False),
    ],
)
async def test_a_freeze_stops_whom_it_names_at_the_very_next_call(
    broker: Any, aim: dict[str, str], group: str, provider: str, stopped: bool
) -> None:
    """All, one group or one provider; nobody else; lifted, calls pass again."""
    await broker.grant(provider, L1, group=group)
    action, params = ("look", {}) if provider == "count" else ("transform", {"expression": "@", "data": 1})
    await broker.freeze(L0, **aim)
    answer = await broker.call(provider, action, params, group=group)
    assert answer.code == ("FROZEN" if stopped else "OK")
    if stopped:
        assert answer.facts["check"] == "4 kill_switch"
        assert "an incident" in answer.message
        assert answer.next_steps[0].startswith("an admin must lift the freeze")
    assert await broker.unfreeze(**aim)
    assert (await broker.call(provider, action, params, group=group)).code == "OK"
    assert not await broker.unfreeze(**aim)


async def test_a_ceiling_lets_pass_what_is_not_above_it(broker: Any, counter: Any) -> None:
    """Frozen to L1, reading goes on and writing stops; of several ceilings the lowest binds."""
    await broker.grant("count", L2)
    await broker.freeze(L1)
    await broker.freeze(L2, group="developer")
    assert (await broker.call("count", "look")).code == "OK"
    frozen = await broker.call("count", "add")
    assert (frozen.code, frozen.facts["frozen"], frozen.facts["max_level"]) == ("FROZEN", "all calls", "L1")
    assert counter.add.effects == []
    assert (await broker.call("count", "fly")).code == "UNKNOWN_ACTION"
    await broker.freeze(L0)
    assert (await broker.call("count", "fly")).code == "FROZEN"


async def test_no_call_that_is_asked_after_the_answer_gets_through(start: Any, counter: Any) -> None:
    """64 callers at work: once Freeze has answered, nothing that is asked for later is executed."""
    async with start(rate_l2=100_000, hard_l2=100_000, pending=1000) as broker:
        await broker.grant("count", L2)
        frozen = asyncio.Event()

        async def caller() -> list[str]:
            codes = []
            while len(codes) < 5:
                late = frozen.is_set()
                code = (await broker.call("count", "add")).code
                if late:
                    codes.append(code)
            return codes

        callers = [asyncio.create_task(caller()) for _ in range(64)]
        while counter.effects < 64:
            await asyncio.sleep(0)
        await broker.freeze(L1, provider="count")
        frozen.set()
        assert {code for codes in await asyncio.gather(*callers) for code in codes} == {"FROZEN"}


async def test_main_lowers_and_only_an_admin_raises_or_lifts(broker: Any) -> None:
    """Who sees a misbehaving agent first may stop it; who stopped it stays on record."""
    first = await by_main(broker, L2)
    assert (first.principal, first.reason, first.max_level) == ("group:main", "odd calls", L2)
    await by_main(broker, L1)
    assert (await by_main(broker, L1, request_id="again", reason="the same")).reason == "odd calls"
    with pytest.raises(NanoclawError) as raised:
        await by_main(broker, L2, request_id="raise")
    assert raised.value.reason == "FREEZE_IS_LOWER"
    for stub, metadata in ((broker.gateway, on_behalf("main")), (broker.gateway, on_behalf("developer"))):
        with pytest.raises(NanoclawError) as raised:
            await stub.Unfreeze(pb.UnfreezeRequest(request_id="u"), metadata=metadata)
        assert raised.value.reason == "NOT_PERMITTED"
    with pytest.raises(NanoclawError) as raised:
        await broker.gateway.Freeze(
            pb.FreezeRequest(request_id="d", max_level=L0, reason="r"), metadata=on_behalf("developer")
        )
    assert raised.value.reason == "NOT_PERMITTED"
    assert (await broker.freeze(L2)).max_level == L2
    assert await broker.unfreeze()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"max_level": 0}, "INVALID_FIELD"),
        ({"max_level": L3}, "INVALID_FIELD"),
        ({"max_level": 77}, "INVALID_FIELD"),
        ({"reason": " "}, "INVALID_FIELD"),
        ({"reason": "x" * 501}, "INVALID_FIELD"),
        ({"group": "developer", "provider": "count"}, "INVALID_FIELD"),
        ({"group": "../x"}, "INVALID_FIELD"),
        ({"provider": "cuont"}, "PROVIDER_NOT_FOUND"),
        ({"request_id": ""}, "INVALID_FIELD"),
    ],
)
async def test_a_freeze_that_would_freeze_nothing_is_refused(broker: Any, fields: dict[str, Any], reason: str) -> None:
    """A misspelt provider, no level, no reason."""
    with pytest.raises(NanoclawError) as raised:
        await broker.freeze(**fields)
    assert raised.value.reason == reason
    assert not (await broker.founder.ListFreezes(pb.ListFreezesRequest())).freezes


async def test_freezes_are_listed_paged_and_in_the_status(start: Any) -> None:
    """Those in force, also after a restart; the same request freezes once."""
    async with start() as broker:
        request = pb.FreezeRequest(request_id="once", max_level=L0, reason="r", group="developer")
        assert await broker.founder.Freeze(request) == await broker.founder.Freeze(request)
        await broker.freeze(L1, provider="count")
        await broker.freeze(L2)
        await broker.freeze(L0, provider="json")
        await broker.unfreeze(provider="json")
        assert await broker.founder.Freeze(request)
    async with start() as broker:
        seen, token = [], ""
        while True:
            answer = await broker.founder.ListFreezes(pb.ListFreezesRequest(page_size=2, page_token=token))
            seen += [(one.group, one.provider, one.max_level) for one in answer.freezes]
            token = answer.next_page_token
            if not token:
                break
        assert seen == [("", "", L2), ("developer", "", L0), ("", "count", L1)]
        status = await broker.founder.GetStatus(pb.GetStatusRequest())
        assert len(status.freezes) == 3
        with pytest.raises(NanoclawError):
            await broker.founder.ListFreezes(pb.ListFreezesRequest(page_token="WzFd"))


async def test_capabilities_show_a_freeze_and_watchers_are_told(broker: Any) -> None:
    """What is frozen is DENIED in ext_capabilities.json; the mark rises at each freeze and unfreeze."""
    await broker.grant("count", L2)

    async def shown() -> dict[str, str]:
        (one,) = (await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())).capabilities
        return {action.name: action.status for action in one.actions}

    watch = broker.gateway.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=10)
    marks = [(await watch.read()).revision]
    await broker.freeze(L1, group="developer")
    marks.append((await watch.read()).revision)
    assert (await shown())["add"] == "DENIED"
    assert (await shown())["look"] == "available"
    await broker.unfreeze(group="developer")
    marks.append((await watch.read()).revision)
    assert (await shown())["add"] == "available"
    assert marks == sorted(set(marks))
    watch.cancel()
