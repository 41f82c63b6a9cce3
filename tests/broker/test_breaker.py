"""What keeps failing is left alone for a while, then tried with one call."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.breaker import FAILURES, OPEN_SECONDS, WINDOW_SECONDS, BreakerState, Circuit
from nanoclaw_broker.providers import ActionFailed, Result

L1 = pb.ACCESS_LEVEL_L1


def at(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"2026-11-21T12:{int(minutes):02}:{rest:09.6f}Z"


def failing(*moments: float) -> Circuit:
    circuit = Circuit("count")
    for moment in moments:
        circuit = circuit.failed(at(moment), f"call-{moment}")
    return circuit


def test_five_failures_within_two_minutes_open_it_for_ten() -> None:
    """Not four, and not five over a longer time; at the end of ten minutes one call goes through."""
    assert failing(0, 10, 20, 30).state(at(30)) is BreakerState.CLOSED
    assert failing(0, 10, 20, 30, WINDOW_SECONDS).state(at(WINDOW_SECONDS)) is BreakerState.CLOSED
    opened = failing(0, 10, 20, 30, 40)
    assert not opened.lets_through(at(40))
    assert not opened.lets_through(at(40 + OPEN_SECONDS - 1))
    assert opened.lets_through(at(40 + OPEN_SECONDS))
    assert not opened.probing("probe").lets_through(at(40 + OPEN_SECONDS))


def test_the_probe_alone_decides() -> None:
    """Its answer closes, its failure opens anew; a late end of another call does neither."""
    probing = failing(0, 1, 2, 3, 4).probing("probe")
    assert probing.answered("other") == probing
    assert probing.failed(at(700), "other") == probing
    assert probing.answered("probe") == Circuit("count")
    assert probing.failed(at(700), "probe").retry_at == at(700 + OPEN_SECONDS)
    assert probing.says_nothing("probe").lets_through(at(700))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_it_opens_exactly_when_so_many_failures_lie_in_a_window(moments: list[int]) -> None:
    """Over any sequence of failures."""
    circuit, seen = Circuit("count"), []
    for moment in sorted(moments):
        if circuit.opened_at:
            break
        circuit = circuit.failed(at(moment), "c")
        seen.append(moment)
        recent = [one for one in seen if one > moment - WINDOW_SECONDS]
        assert bool(circuit.opened_at) is (len(recent) >= FAILURES)


def trouble(note: Any) -> Any:
    raise ActionFailed("SERVICE_UNAVAILABLE", "down", in_trouble=True)


async def test_a_provider_in_trouble_is_left_alone_until_a_probe_is_answered(start: Any, counter: Any) -> None:
    """Refused with when to try again; shown in the status; kept over a restart; pure actions go on."""
    async with start(rate_l1=100) as broker:
        await broker.grant("count", L1)
        counter.look.then = trouble
        for _ in range(FAILURES):
            assert (await broker.call("count", "look")).code == "SERVICE_UNAVAILABLE"
        answer = await broker.call("count", "look")
        assert (answer.status, answer.code, answer.facts["circuit"]) == (pb.CALL_STATUS_DENIED, "CIRCUIT_OPEN", "count")
        assert answer.facts["retry_at"]
        (breaker,) = (await broker.founder.GetStatus(pb.GetStatusRequest())).breakers
        assert (breaker.provider, breaker.state) == ("count", pb.Breaker.STATE_OPEN)
        assert (await broker.call("count", "compute")).code == "OK"
    async with start() as broker:
        assert (await broker.call("count", "look", request_id="later")).code == "CIRCUIT_OPEN"
    with closing(sqlite3.connect(broker.database, isolation_level=None)) as database:  # ten minutes pass
        database.execute("UPDATE ext_breakers SET opened_at = '2026-01-01T00:00:00.000000Z'")
    async with start() as broker:
        counter.look.then = lambda note: Result(None)
        assert (await broker.call("count", "look", request_id="the-probe")).code == "OK"
        assert not (await broker.founder.GetStatus(pb.GetStatusRequest())).breakers


async def test_of_64_callers_at_once_one_is_the_probe(start: Any, counter: Any) -> None:
    """Half-open: the others are refused while it is under way, and pass once it was answered."""
    async with start(rate_l1=1000, pending=1000) as broker:
        await broker.grant("count", L1)
        counter.look.then = trouble
        for _ in range(FAILURES):
            await broker.call("count", "look")
    with closing(sqlite3.connect(broker.database, isolation_level=None)) as database:  # ten minutes pass
        database.execute("UPDATE ext_breakers SET opened_at = '2026-01-01T00:00:00.000000Z'")
    async with start(rate_l1=1000, pending=1000) as broker:
        counter.look.then = lambda note: Result(None)
        before, counter.look.gate = counter.effects, asyncio.Event()
        calls = [asyncio.create_task(broker.call("count", "look", request_id=f"probe{n}")) for n in range(64)]
        while sum(call.done() for call in calls) < 63:
            await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
        assert {call.result().code for call in calls if call.done()} == {"CIRCUIT_OPEN"}
        counter.look.gate.set()
        assert sorted([(await call).code for call in calls])[-1] == "OK"
        assert counter.effects == before + 1
        assert (await broker.call("count", "look", request_id="after")).code == "OK"


@pytest.mark.parametrize("code", ["NOT_FOUND", "FORBIDDEN"])
async def test_an_answer_that_says_no_is_no_trouble(start: Any, counter: Any, code: str) -> None:
    """Only what the other side can't do for anybody counts."""

    def no(note: Any) -> Any:
        raise ActionFailed(code, "no")

    async with start(rate_l1=100) as broker:
        await broker.grant("count", L1)
        counter.look.then = no
        for _ in range(FAILURES + 1):
            assert (await broker.call("count", "look")).code == code
