"""Order where it matters, and bounds where somebody might take too much."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway.lanes import Lanes
from nanoclaw_ipc_gateway.limits import Limits
from nanoclaw_ipc_gateway.seats import Seats
from nanoclaw_ipc_gateway.settings import Settings
from nanoclaw_ipc_gateway.strict_json import MAX_BYTES


@given(st.lists(st.sets(st.sampled_from("abc"), max_size=3), max_size=12))
def test_turns_of_one_key_are_taken_in_order_and_never_overlap(wanted: list[set[str]]) -> None:
    """Whatever keys are asked for together, nobody waits for ever, and nothing is kept afterwards."""

    async def run() -> None:
        lanes = Lanes()
        held: set[str] = set()
        order: list[int] = []

        async def one(number: int, keys: set[str]) -> None:
            async with lanes.turn(keys):
                assert not held & keys
                held.update(keys)
                await asyncio.sleep(0)
                order.append(number)
                held.difference_update(keys)

        async with asyncio.timeout(5):
            await asyncio.gather(*(one(number, keys) for number, keys in enumerate(wanted)))
        for key in "abc":
            turns = [number for number in order if key in wanted[number]]
            assert turns == sorted(turns)
        await asyncio.sleep(0)
        assert lanes._last == {}

    asyncio.run(run())


async def test_who_gives_up_waiting_lets_the_next_one_wait_on() -> None:
    """A place given up in the middle of a line does not let those behind overtake."""
    lanes = Lanes()
    release = asyncio.Event()
    order: list[str] = []

    async def hold() -> None:
        async with lanes.turn(["a"]):
            await release.wait()
            order.append("first")

    async def follow(name: str) -> None:
        async with lanes.turn(["a"]):
            order.append(name)

    first, second, third = (asyncio.create_task(it) for it in (hold(), follow("second"), follow("third")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert order == []
    release.set()
    await asyncio.gather(first, third)
    assert order == ["first", "third"]


def test_a_bucket_refills_with_time() -> None:
    """Each group has its own; large files cost more, those that are not read do not."""
    limits = Limits(60)
    for _ in range(60):
        limits.take("a", 100, 0.0)
    with pytest.raises(NanoclawError) as refusal:
        limits.take("a", 100, 0.5)
    assert refusal.value.facts["retry_after_ms"] == "500"
    limits.take("b", 100, 0.5)
    limits.take("a", 100, 1.0)
    limits.take("b", MAX_BYTES - 1, 70.0)
    with pytest.raises(NanoclawError):
        limits.take("b", 100, 70.0)
    Limits(1).take("c", MAX_BYTES + 1, 0.0)
    for _ in range(10_000):
        Limits(0).take("a", MAX_BYTES, 0.0)


async def test_a_flood_is_answered_and_leaves_no_rows(world: Any) -> None:
    """Each file is told that it was too many; database and log hold what was decided, and nothing of the rest."""
    async with world.running(per_minute=3):
        agent = world.mailbox()
        answers = [await agent.ask({"type": "refresh_groups"}) for _ in range(20)]
        limited = [answer for answer in answers if answer["code"] == "RATE_LIMITED"]
        decided = len(answers) - len(limited)
        assert limited
        assert decided >= 3
        assert all(answer["status"] == "denied" and answer["next_steps"] for answer in limited)
        assert world.rows("SELECT count(*) FROM ipc_requests") == [(decided,)]
        assert world.rows("SELECT count(*) FROM ipc_activities WHERE action = 'answer'") == [(decided,)]


def test_seats_are_bounded_and_given_back() -> None:
    """Also when what happens on one fails."""
    seats = Seats(1)
    with seats.one() as first, seats.one() as second:
        assert (first, second) == (True, False)
    with pytest.raises(ValueError, match="x"), seats.one():
        raise ValueError("x")
    with seats.one() as again:
        assert again


async def test_the_status_counts(served: Any) -> None:
    """Over restarts, too."""
    agent = served.mailbox()
    await agent.ask({"type": "gov_create", "title": "t", "task_type": "BUG"})
    await agent.ask(b"[]")
    name = agent.write({"type": "message", "text": "hi"}, folder="messages")
    await agent.answer(name)
    await served.gateway.stop()
    async with served.running():
        status = await served.stub().GetStatus(gateway.GetStatusRequest())
        counts = (status.requests, status.answered, status.quarantined, status.pending, status.messages)
        assert counts == (3, 2, 1, 0, 1)


def test_an_unknown_setting_stops_the_start() -> None:
    """A typo must not go unnoticed."""
    assert Settings.read({"NANOCLAW_GATEWAY_WORKERS": "3", "NANOCLAW_HOME": "/x"}).workers == 3
    with pytest.raises(NanoclawError) as refusal:
        Settings.read({"NANOCLAW_GATEWAY_WROKERS": "3"})
    assert refusal.value.reason == "UNKNOWN_SETTING"
