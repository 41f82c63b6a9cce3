"""Lists are read to their end, however much their rows say: no agent's or server's words put one out of reach."""

from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw_broker import shown_actions
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import on_behalf, page

LISTS = {"ListPendingCalls": "calls", "ListCapabilities": "capabilities", "ListProviders": "providers"}


async def read_all(stub: Any, rpc: str, **options: Any) -> list[Any]:
    """Every row, each page no larger than it may be."""
    found: list[Any] = []
    request = getattr(pb, f"{rpc}Request")(page_size=500)
    while True:
        answer = await getattr(stub, rpc)(request, **options)
        rows = getattr(answer, LISTS[rpc])
        assert len(rows) <= 1 or sum(row.ByteSize() for row in rows) <= page.MOST_BYTES
        found += rows
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found


async def test_calls_that_wait_are_shown_whatever_they_render(
    start: Any, governance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as what they would do is, there are several pages; who may vote on some of them sees those, each once."""
    monkeypatch.setattr(page, "MOST_BYTES", 5000)
    async with start(rate_l3=100, soft_l3=100, hard_l3=100) as broker:
        await broker.grant("count", pb.ACCESS_LEVEL_L3)
        for task, approver in (("t1", "security"), ("t2", "legal")):
            governance.put(task, gate=gov.GATE_SECURITY, approver_group=approver)
            governance.live[task] = [gov.GATE_SECURITY]
        asked = []
        for number in range(9):
            text = f"{number} " + "x" * 2000
            waiting = await broker.call("count", "launch", {"text": text}, task_id=f"t{1 + number % 2}")
            assert waiting.code == "APPROVAL_PENDING"
            asked.append(waiting.call_id)
        shown = await read_all(broker.founder, "ListPendingCalls")
        assert [one.call.call_id for one in shown] == asked
        assert all("x" * 2000 in one.rendered for one in shown)
        for group, theirs in (("security", asked[0::2]), ("legal", asked[1::2])):
            shown = await read_all(broker.gateway, "ListPendingCalls", metadata=on_behalf(group))
            assert [one.call.call_id for one in shown] == theirs


async def test_grants_and_providers_are_listed_whatever_their_actions_say(
    start: Any, counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends where it would be too large; a provider that says more than that says less of its last actions."""
    for action in counter.actions:
        action.description = "long " * 200
    async with start() as broker:
        for group in ("a", "b", "c"):
            await broker.grant("count", group=group)
        whole = await read_all(broker.founder, "ListCapabilities")
        monkeypatch.setattr(page, "MOST_BYTES", 8000)
        assert await read_all(broker.founder, "ListCapabilities") == whole
        names = [one.name for one in await read_all(broker.founder, "ListProviders")]
        assert {"count", "github", "mcp"} <= set(names)
        assert names == sorted(set(names))
        monkeypatch.setattr(shown_actions, "MOST_BYTES", 3000)
        for listed in (
            (await read_all(broker.founder, "ListCapabilities"))[0],
            next(one for one in await read_all(broker.founder, "ListProviders") if one.name == "count"),
        ):
            assert [bool(action.description) for action in listed.actions] == [True, True, False, False, False, False]
            assert {action.params_schema_json for action in listed.actions[2:]} == {'{"type":"object"}'}
            assert len({action.name for action in listed.actions}) == 6


@pytest.mark.parametrize("rpc", ["ListPendingCalls", "ListCapabilities", "ListProviders", "ListFreezes", "ListCalls"])
async def test_the_token_of_another_list_is_refused(broker: Any, rpc: str) -> None:
    """And what is none; with what to send."""
    for token in ("x", page.encode("a", "b", "c", "d"), page.encode(1), page.encode("a", 2)):
        if rpc == "ListCalls" and token == page.encode(1):
            continue
        with pytest.raises(NanoclawError) as refused:
            await getattr(broker.founder, rpc)(getattr(pb, f"{rpc}Request")(page_token=token))
        assert (refused.value.reason, "next_page_token" in str(refused.value.next_step)) == ("PAGE_TOKEN_INVALID", True)
