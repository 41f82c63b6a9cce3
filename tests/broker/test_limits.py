"""How much a group may do: exact under concurrency, counted inside the claim."""

import asyncio
import sqlite3
from collections import Counter as Tally
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb

L1, L2 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2


def refusals(broker: Any) -> dict[tuple[str, str], int]:
    """What was counted, by group and code."""
    with closing(sqlite3.connect(f"file:{broker.database}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT group_name, code, sum(count) FROM ext_refusals GROUP BY 1, 2").fetchall()
    return {(group, code): count for group, code, count in rows}


@pytest.mark.parametrize(
    ("group", "action", "passing"), [("developer", "look", 20), ("developer", "add", 10), ("main", "look", 30)]
)
async def test_the_rate_holds_exactly_under_64_callers(
    start: Any, counter: Any, group: str, action: str, passing: int
) -> None:
    """64 at once: as many pass as the rate says, not one more; every other one is counted."""
    async with start(pending=1000) as broker:
        await broker.grant("count", L2, group=group)
        answers = await asyncio.gather(*(broker.call("count", action, group=group) for _ in range(64)))
        tally = Tally(answer.code for answer in answers)
        assert tally == {"OK": passing, "RATE_LIMITED": 64 - passing}
        assert counter.effects == passing
        assert refusals(broker) == {(group, "RATE_LIMITED"): 64 - passing}
        refused = next(answer for answer in answers if answer.code == "RATE_LIMITED")
        retry_at = datetime.fromisoformat(refused.facts["retry_at"])
        assert timedelta(seconds=50) < retry_at - datetime.now(UTC) < timedelta(seconds=61)
        records = await broker.founder.ListCalls(pb.ListCallsRequest(page_size=500))
        assert len(records.calls) == passing


async def test_rates_are_per_group_and_level(broker: Any) -> None:
    """A group that has used its L2 up may still read, and another group is not touched."""
    await broker.grant("count", L2)
    await broker.grant("count", L2, group="sales")
    for _ in range(10):
        assert (await broker.call("count", "add")).code == "OK"
    assert (await broker.call("count", "add")).code == "RATE_LIMITED"
    assert (await broker.call("count", "look")).code == "OK"
    assert (await broker.call("count", "add", group="sales")).code == "OK"


async def test_a_refused_call_may_be_sent_again_as_it_was(start: Any) -> None:
    """Counted refusals keep no request_id: the same request passes once there is room."""
    async with start(rate_l1=1) as broker:
        await broker.grant("count", L1)
        assert (await broker.call("count", "look")).code == "OK"
        refused = await broker.call("count", "look", request_id="again")
        assert (refused.code, refused.call_id) == ("RATE_LIMITED", "")
    async with start(rate_l1=2) as broker:
        assert (await broker.call("count", "look", request_id="again")).code == "OK"


async def test_the_rate_survives_a_restart(start: Any) -> None:
    """It is counted from the ledger, not from memory."""
    async with start(rate_l1=3) as broker:
        await broker.grant("count", L1)
        for _ in range(3):
            assert (await broker.call("count", "look")).code == "OK"
    async with start(rate_l1=3) as broker:
        assert (await broker.call("count", "look", request_id="after")).code == "RATE_LIMITED"


async def test_a_group_has_five_calls_under_way_at_once(start: Any, counter: Any) -> None:
    """BUSY from the sixth on, of 64 at once; what has ended makes room."""
    counter.look.gate = asyncio.Event()
    async with start(rate_l1=1000) as broker:
        await broker.grant("count", L1)
        calls = [asyncio.create_task(broker.call("count", "look")) for _ in range(64)]
        while sum(call.done() for call in calls) < 59:
            await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
        assert {call.result().code for call in calls if call.done()} == {"BUSY"}
        assert refusals(broker) == {("developer", "BUSY"): 59}
        counter.look.gate.set()
        codes = Tally([(await call).code for call in calls])
        assert codes == {"OK": 5, "BUSY": 59}
        assert (await broker.call("count", "look")).code == "OK"


async def test_busy_comes_before_the_names_are_looked_at(start: Any, counter: Any) -> None:
    """Check 5 before check 6: a busy group learns nothing else."""
    counter.look.gate = asyncio.Event()
    async with start(pending=1) as broker:
        await broker.grant("count", L1)
        under_way = asyncio.create_task(broker.call("count", "look", request_id="first"))
        await counter.look.entered.wait()
        assert (await broker.call("nope", "nope")).code == "BUSY"
        counter.look.gate.set()
        assert (await under_way).code == "OK"


async def test_the_quota_of_a_day_warns_and_then_denies(start: Any, counter: Any) -> None:
    """Soft warns in the answer's facts, hard denies until midnight UTC, each with a row of its own."""
    async with start(rate_l2=1000, soft_l2=2, hard_l2=4, pending=1000) as broker:
        await broker.grant("count", L2)
        answers = await asyncio.gather(*(broker.call("count", "add") for _ in range(64)))
        tally = Tally(answer.code for answer in answers)
        assert tally == {"OK": 4, "QUOTA_EXHAUSTED": 60}
        assert counter.effects == 4
        warned = [answer for answer in answers if "quota_warning" in answer.facts]
        assert sorted(answer.facts["quota_warning"] for answer in warned) == ["3 of 4 today", "4 of 4 today"]
        refused = next(answer for answer in answers if answer.code == "QUOTA_EXHAUSTED")
        assert refused.facts["retry_at"].endswith("T00:00:00.000000Z")
        records = await broker.founder.ListCalls(pb.ListCallsRequest(page_size=500, states=[pb.CALL_STATE_DENIED]))
        assert len(records.calls) == 60
