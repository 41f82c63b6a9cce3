"""What a call may cost is set aside before it is made, exactly, and what it did cost is settled after it."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.runtime.v1 import runtime_pb2 as rt
from nanoclaw.runtime.v1 import runtime_pb2_grpc
from nanoclaw_broker import calls
from nanoclaw_broker.access import RUNTIME_ACCESS
from nanoclaw_broker.providers import ActionFailed, Result
from nanoclaw_broker.runtime_servicer import RuntimeServicer, spec
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import Access, on_behalf
from nanoclaw_rpc.testing import permitted, unlisted

CENT = 10_000
STEP, DAY, TOTAL = rt.BUDGET_PERIOD_STEP, rt.BUDGET_PERIOD_DAY, rt.BUDGET_PERIOD_TOTAL


def exact(path: Path) -> None:
    """The sums are those of the ledger."""
    under_way = "state IN ('AWAITING_APPROVAL', 'PREPARED', 'SENT')"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for who in ("group_name", "''"):
            for day in ("substr(created_at, 1, 10)", "''"):
                summed = database.execute(
                    f"SELECT {who}, {day}, sum(iif({under_way}, cost_micros, 0)), sum(iif({under_way}, 0, cost_micros))"
                    " FROM ext_calls WHERE claim_number > 0 GROUP BY 1, 2 HAVING sum(cost_micros) > 0"
                ).fetchall()
                for group, on, reserved, spent in summed:
                    kept = database.execute(
                        "SELECT reserved_micros, spent_micros FROM ext_spending WHERE group_name = ? AND day = ?",
                        (group, on),
                    ).fetchone()
                    assert kept == (reserved, spent), (group, on)


@pytest.fixture
def costly(counter: Any) -> Iterator[Any]:
    """The action `add` costs 10 cents at the most, 3 in the end."""
    counter.add.cost_micros = lambda note: 10 * CENT
    counter.add.then = lambda note: Result(None, "did it", cost_micros=3 * CENT)
    return counter


def raising(error: Exception) -> Any:
    def then(note: Any) -> Any:
        raise error

    return then


def runtime(broker: Any, principal: str = "operator:founder") -> Any:
    return runtime_pb2_grpc.RuntimeServiceStub(broker.dial(broker.address, principal, attempts=1))


async def lines(broker: Any, group: str = "developer") -> dict[tuple[str, int], rt.BudgetLine]:
    response = await runtime(broker).GetBudget(rt.GetBudgetRequest(group=group))
    return {(line.group, line.period): line for line in response.lines}


async def limit(broker: Any, cents: int, period: Any = DAY, group: str = "developer") -> None:
    await runtime(broker).SetBudget(
        rt.SetBudgetRequest(request_id=f"b{next(broker.numbers)}", group=group, period=period, limit_cents=cents)
    )


def test_the_runtimes_rpcs_are_listed() -> None:
    """Everybody reads, admins and main set."""
    service = spec(RuntimeServicer.__new__(RuntimeServicer))
    assert not unlisted(service)
    setters = {access for rpc, access, allowed in permitted(service) if allowed and rpc == "SetBudget"}
    assert setters == {Access.ADMIN, Access.MAIN}
    assert RUNTIME_ACCESS.keys() == {"GetBudget", "SetBudget"}


async def test_the_worst_case_is_set_aside_while_it_runs_and_the_real_cost_spent_after(
    broker: Any, costly: Any
) -> None:
    """Reserved by the claim, settled by the end, shown on the way and in the ledger."""
    await broker.grant("count")
    costly.add.gate = asyncio.Event()
    calling = asyncio.create_task(broker.call("count", "add"))
    await costly.add.entered.wait()
    day = (await lines(broker))["developer", DAY]
    assert (day.reserved_micros, day.spent_micros, day.limit_cents, day.is_default) == (10 * CENT, 0, 10_000, True)
    exact(broker.database)
    costly.add.gate.set()
    answer = await calling
    day = (await lines(broker))["developer", DAY]
    assert (day.reserved_micros, day.spent_micros, day.left_micros) == (0, 3 * CENT, 9_997 * CENT)
    assert (await broker.record(answer.call_id)).cost_micros == 3 * CENT
    exact(broker.database)


@pytest.mark.parametrize(
    ("period", "group"), [(STEP, "developer"), (DAY, "developer"), (TOTAL, "developer"), (DAY, ""), (TOTAL, "")]
)
async def test_a_call_that_may_cost_more_than_is_left_is_refused_with_the_limit_it_takes(
    broker: Any, costly: Any, period: Any, group: str
) -> None:
    """Nothing is executed; under the limit that the refusal names, it passes."""
    await broker.grant("count")
    await limit(broker, 9, period, group)
    answer = await broker.call("count", "add")
    assert (answer.status, answer.code) == (pb.CALL_STATUS_DENIED, "BUDGET_EXCEEDED")
    assert answer.facts["needed_micros"] == str(10 * CENT)
    assert any("to 10 cents" in step for step in answer.next_steps)
    assert costly.effects == 0
    await limit(broker, 10, period, group)
    assert (await broker.call("count", "add")).code == "OK"


async def test_64_callers_at_once_do_not_pass_beyond_the_limit(start: Any, costly: Any) -> None:
    """While none has ended, exactly as many are let through as the budget holds worst cases of."""
    async with start(pending=100, rate_l2=1000, hard_l2=1000) as broker:
        await broker.grant("count")
        await limit(broker, 105)
        costly.add.gate = asyncio.Event()
        waiting = [asyncio.create_task(broker.call("count", "add")) for _ in range(64)]
        async with asyncio.timeout(20):
            while sum(call.done() for call in waiting) < 54:
                await asyncio.sleep(0.005)
        day = (await lines(broker))["developer", DAY]
        assert (day.reserved_micros, day.spent_micros, day.left_micros) == (100 * CENT, 0, 5 * CENT)
        costly.add.gate.set()
        codes = [answer.code for answer in await asyncio.gather(*waiting)]
        assert (codes.count("OK"), codes.count("BUDGET_EXCEEDED")) == (10, 54)
        exact(broker.database)


@pytest.mark.parametrize(
    ("then", "spent"),
    [
        (lambda note: Result(None), 10 * CENT),
        (raising(ActionFailed("NO", "no")), 0),
        (raising(ActionFailed("NO", "no", cost_micros=7)), 7),
        (raising(ConnectionResetError()), 10 * CENT),
    ],
    ids=["not said", "refused", "refused and charged", "no reply"],
)
async def test_what_is_spent_depends_on_the_end(broker: Any, costly: Any, then: Any, spent: int) -> None:
    """Where nobody knows what it cost it cost the worst case; where it was refused nothing, unless it says so."""
    await broker.grant("count")
    costly.add.then = then
    await broker.call("count", "add")
    assert (await lines(broker))["developer", DAY].spent_micros == spent
    exact(broker.database)


async def test_a_call_that_turns_out_not_to_have_happened_costs_nothing(broker: Any, costly: Any) -> None:
    """What was held as spent while it was UNKNOWN is given back."""
    await broker.grant("count")
    costly.add.then = raising(ConnectionResetError())
    answer = await broker.call("count", "add")
    outcome = pb.SETTLE_OUTCOME_DID_NOT_HAPPEN
    await broker.founder.Settle(
        pb.SettleRequest(request_id="s", call_id=answer.call_id, outcome=outcome, note="looked there")
    )
    assert (await lines(broker))["developer", DAY].spent_micros == 0
    assert (await broker.record(answer.call_id)).cost_micros == 0
    exact(broker.database)


async def test_a_reservation_whose_call_died_is_not_leaked(
    start: Any, costly: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claimed and never sent: the next process gives it back."""
    async with start() as broker:
        await broker.grant("count")
        with monkeypatch.context() as patch:
            patch.setattr(calls, "mark_sent", lambda *_: raising(asyncio.CancelledError())(None))
            with pytest.raises(NanoclawError):
                await broker.call("count", "add")
        assert (await lines(broker))["developer", DAY].reserved_micros == 10 * CENT
    async with start() as broker:
        day = (await lines(broker))["developer", DAY]
        assert (day.reserved_micros, day.spent_micros) == (0, 0)
        exact(broker.database)


async def test_an_overrun_is_recorded_and_freezes_the_groups_spending(broker: Any, costly: Any) -> None:
    """What costs nothing still passes; an admin lets the group spend again, main may not."""
    await broker.grant("count")
    costly.add.then = lambda note: Result(None, cost_micros=25 * CENT)
    assert (await broker.call("count", "add")).code == "OK"
    assert (await broker.call("count", "add")).code == "BUDGET_FROZEN"
    assert (await broker.call("count", "drop")).code == "OK"
    budget = await runtime(broker).GetBudget(rt.GetBudgetRequest(group="developer"))
    assert budget.frozen
    assert "25.00" in budget.frozen_reason
    resume = rt.SetBudgetRequest(request_id="x", group="developer", resume=True, reason="priced anew")
    with pytest.raises(NanoclawError) as refused:
        await runtime(broker, "service:gateway").SetBudget(resume, metadata=on_behalf("main"))
    assert refused.value.reason == "RAISE_NEEDS_ADMIN"
    costly.add.then = lambda note: Result(None)
    assert not (await runtime(broker).SetBudget(resume)).budget.frozen
    assert (await broker.call("count", "add")).code == "OK"
    exact(broker.database)


async def test_main_may_lower_a_budget_and_not_raise_it(broker: Any) -> None:
    """An agent can be talked into anything: more money takes a person."""
    main = runtime(broker, "service:gateway")

    async def set_(number: int, **fields: Any) -> Any:
        request = rt.SetBudgetRequest(request_id=f"m{number}", group="developer", period=DAY, **fields)
        return await main.SetBudget(request, metadata=on_behalf("main"))

    await set_(1, limit_cents=500)
    await set_(2, limit_cents=400)
    raises: list[dict[str, Any]] = [{"limit_cents": 401}, {}]
    for number, fields in enumerate(raises, 3):
        with pytest.raises(NanoclawError) as refused:
            await set_(number, **fields)
        assert refused.value.reason == "RAISE_NEEDS_ADMIN"
    assert (await lines(broker))["developer", DAY].limit_cents == 400


async def test_a_limit_that_was_set_can_go_back_to_the_default(broker: Any) -> None:
    """Left out, it is the settings' again; the same request is answered the same."""
    await limit(broker, 5)
    request = rt.SetBudgetRequest(request_id="d", group="developer", period=DAY)
    response = await runtime(broker).SetBudget(request)
    assert await runtime(broker).SetBudget(request) == response
    day = (await lines(broker))["developer", DAY]
    assert (day.limit_cents, day.is_default) == (10_000, True)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"period": 0, "limit_cents": 1}, "period"),
        ({"period": 9, "limit_cents": 1}, "period"),
        ({"period": DAY, "limit_cents": -1}, "limit_cents"),
        ({"period": DAY, "limit_cents": 10**12}, "limit_cents"),
        ({"period": DAY, "limit_cents": 1, "group": "no/group"}, "group"),
        ({"period": DAY, "limit_cents": 1, "reason": "x" * 501}, "reason"),
        ({"period": DAY, "limit_cents": 1, "request_id": ""}, "request_id"),
    ],
)
async def test_a_budget_that_makes_no_sense_is_refused(broker: Any, fields: dict[str, Any], field: str) -> None:
    """With the field that is wrong."""
    with pytest.raises(NanoclawError) as refused:
        await runtime(broker).SetBudget(rt.SetBudgetRequest(**{"request_id": "r", "group": "developer", **fields}))
    assert (refused.value.reason, field in json.dumps(str(refused.value))) == ("INVALID_FIELD", True)


async def test_a_group_sees_its_own_budget_only(broker: Any) -> None:
    """Somebody else's is refused; main sees all."""
    stub = runtime(broker, "service:gateway")
    own = await stub.GetBudget(rt.GetBudgetRequest(), metadata=on_behalf("developer"))
    assert {line.group for line in own.lines} == {"developer"}
    with pytest.raises(NanoclawError):
        await stub.GetBudget(rt.GetBudgetRequest(group="sales"), metadata=on_behalf("developer"))
    assert (await stub.GetBudget(rt.GetBudgetRequest(group="sales"), metadata=on_behalf("main"))).lines
