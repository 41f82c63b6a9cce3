"""Killed at any step: no effect twice, none lost unnoticed, and the answer is there when the agent asks again."""

import asyncio
import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker_process import process, reach

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import calls
from nanoclaw_broker.ledger import State
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import on_behalf
from nanoclaw_store import Database
from nanoclaw_store.testing import invariants

L2 = pb.ACCESS_LEVEL_L2


def states(path: Path) -> list[tuple[str, str, str]]:
    """request_id, state and code of every call."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute("SELECT request_id, state, code FROM ext_calls ORDER BY call_id").fetchall()


@pytest.mark.parametrize(
    ("action", "log"),
    [
        ("compute", ["claim SENT", "settle EXECUTED"]),
        ("look", ["claim PREPARED", "send SENT", "settle EXECUTED"]),
        ("add", ["claim PREPARED", "send SENT", "settle EXECUTED"]),
    ],
)
async def test_each_step_is_a_commit_of_its_own(broker: Any, counter: Any, action: str, log: list[str]) -> None:
    """SENT is on the disk before the action runs; a pure action commits twice, any other three times."""
    await broker.grant("count", L2)
    at_execution: list[Any] = []
    acting = getattr(counter, action)
    answer = acting.then
    acting.then = lambda note: (at_execution.extend(states(broker.database)), answer(note))[1]
    await broker.call("count", action, request_id="r")
    assert at_execution == [("r", "SENT", "")]
    with closing(sqlite3.connect(f"file:{broker.database}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT action || ' ' || to_state FROM ext_activities WHERE subject <> '' ORDER BY seq")
        assert [row for (row,) in rows if not row.startswith("grant")] == log


@pytest.mark.parametrize(
    ("crash_at", "action", "status", "code", "effects"),
    [
        ("claimed", "add", pb.CALL_STATUS_FAILED, "NEVER_SENT", 0),
        ("sent", "add", pb.CALL_STATUS_TIMEOUT, "EFFECT_UNKNOWN", 0),
        ("executed", "add", pb.CALL_STATUS_TIMEOUT, "EFFECT_UNKNOWN", 1),
        ("claimed", "look", pb.CALL_STATUS_FAILED, "NEVER_SENT", 0),
        ("executed", "look", pb.CALL_STATUS_TIMEOUT, "NO_REPLY", 1),
        ("executed", "compute", pb.CALL_STATUS_TIMEOUT, "NO_REPLY", 1),
    ],
)
async def test_what_a_crash_leaves_is_settled_at_the_start(
    start: Any,
    counter: Any,
    monkeypatch: pytest.MonkeyPatch,
    crash_at: str,
    action: str,
    status: int,
    code: str,
    effects: int,
) -> None:
    """PREPARED was never sent; SENT may have happened if it changes anything. Asked again: that answer, no effect."""
    async with start() as broker:
        await broker.grant("count", L2)
        with crashing(monkeypatch, crash_at, broker):
            with pytest.raises(NanoclawError):
                await broker.call("count", action, request_id="r", idempotency_key="k")
            left = "PREPARED" if crash_at == "claimed" else "SENT"
            async with asyncio.timeout(20):  # who asked may give up before it gets so far
                while [state for _, state, _ in states(broker.database)] != [left]:
                    await asyncio.sleep(0.005)
    async with start() as broker:
        again = await broker.call("count", action, request_id="r", idempotency_key="k")
        assert (again.status, again.code, again.replayed) == (status, code, True)
        assert counter.effects == effects
        keyed = await broker.call("count", action, request_id="r2", idempotency_key="k")
        if code == "NEVER_SENT":  # nothing has happened under the key, so it is free
            assert (keyed.code, keyed.replayed, counter.effects) == ("OK", False, 1)
        else:
            assert (keyed.code, keyed.replayed, counter.effects) == (code, True, effects)


@contextmanager
def crashing(monkeypatch: pytest.MonkeyPatch, at: str, broker: Any) -> Iterator[None]:
    """From a step on nothing more is written, as if the process had died there."""
    with monkeypatch.context() as patch:

        def die(*_: Any, **__: Any) -> Any:
            raise asyncio.CancelledError

        if at == "claimed":
            patch.setattr(calls, "mark_sent", die)
        elif at == "sent":
            patch.setattr("nanoclaw_broker.execution.Executor._perform", die)
        else:
            patch.setattr(calls, "settle", die)
        yield


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [20])
async def test_killed_under_load_no_effect_happens_twice_and_none_is_lost_unnoticed(
    home: Path, dial: Any, governance_server: Any, rounds: int
) -> None:
    """SIGKILL again and again while 16 callers ask and ask again: the file of effects agrees with what was answered."""
    answered: dict[str, pb.CallResponse] = {}
    done = asyncio.Event()

    async def caller(stub: Any, number: int) -> None:
        count = 0
        while not done.is_set():
            key = f"{number}-{count}"
            count += 1
            request = pb.CallRequest(
                request_id=key,
                provider="count",
                action="add",
                params_json=json.dumps({"key": key}),
                idempotency_key=key,
                attestation=pb.Attestation(signature=pb.Attestation.SIGNATURE_VALID),
            )
            while True:
                try:
                    answered[key] = await stub.Call(request, metadata=on_behalf("developer"), timeout=5)
                    break
                except NanoclawError:
                    await asyncio.sleep(0.01)

    callers: list[asyncio.Task[None]] = []
    for round_ in range(rounds):
        with process(home) as running:
            founder = await reach(dial, home, "operator:founder")
            if not callers:
                await founder.Grant(
                    pb.GrantRequest(request_id="g", group="developer", provider="count", access_level=L2)
                )
                gateway = await reach(dial, home, "service:gateway", attempts=1, timeout=5)
                callers = [asyncio.create_task(caller(gateway, number)) for number in range(16)]
            goal = len(answered) + 40
            while len(answered) < goal:
                await asyncio.sleep(0.005)
            if round_ == rounds - 1:
                done.set()
                await asyncio.gather(*callers)
                running.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.wait) == 0
    effects = (home / "effects.log").read_text().split()
    assert len(effects) == len(set(effects)), "an effect happened twice"
    for key, answer in answered.items():
        if answer.status == pb.CALL_STATUS_EXECUTED:
            assert key in effects, key
        if answer.code == "NEVER_SENT":
            assert key not in effects, key
    told = {key for key, answer in answered.items() if answer.code in ("OK", "EFFECT_UNKNOWN")}
    assert set(effects) <= told, "an effect that nobody was told of"
    invariants(home / "store" / "nanoclaw.db")
    assert {state for _, state, _ in states(home / "store" / "nanoclaw.db")} <= {"EXECUTED", "UNKNOWN", "FAILED"}


@pytest.mark.crash
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("limit", "code"), [("RATE_L2", "RATE_LIMITED"), ("HARD_L2", "QUOTA_EXHAUSTED")])
async def test_a_limit_is_exact_across_crashes(
    home: Path, dial: Any, governance_server: Any, limit: str, code: str
) -> None:
    """Killed three times while 16 callers use it up: as many calls are claimed as it says, not one more or less."""
    codes: list[str] = []
    most = 1200

    async def caller(stub: Any, number: int) -> None:
        for count in range(most):
            call = pb.CallRequest(provider="count", action="add", params_json=json.dumps({"key": f"{number}-{count}"}))
            call.request_id, call.attestation.signature = f"{number}-{count}", pb.Attestation.SIGNATURE_VALID
            told = ""
            while not told:
                try:
                    told = (await stub.Call(call, metadata=on_behalf("developer"), timeout=5)).code
                except NanoclawError:
                    await asyncio.sleep(0.01)
            codes.append(told)
            if told == code:
                return

    callers: list[asyncio.Task[None]] = []
    for round_ in range(4):
        with process(home, **{limit: str(most)}):
            founder = await reach(dial, home, "operator:founder")
            if not callers:
                grant = pb.GrantRequest(request_id="g", group="developer", provider="count", access_level=L2)
                await founder.Grant(grant)
                gateway = await reach(dial, home, "service:gateway", attempts=1, timeout=5)
                callers = [asyncio.create_task(caller(gateway, number)) for number in range(16)]
            while round_ < 3 and len(codes) < 100 * (round_ + 1):
                assert not any(one.done() for one in callers), "it was used up before the last life"
                await asyncio.sleep(0.001)
            if round_ == 3:
                await asyncio.gather(*callers)
    claimed = [row for row in states(home / "store" / "nanoclaw.db") if row[1] != "DENIED"]
    assert len(claimed) == most
    effects = (home / "effects.log").read_text().split()
    assert len(effects) == len(set(effects)) <= most


async def test_a_second_broker_does_not_take_the_first_ones_calls_for_crashed(
    start: Any, counter: Any, home: Path
) -> None:
    """One broker per home; the other one is refused, and the call under way ends as it should."""
    counter.add.gate = asyncio.Event()
    async with start() as broker:
        await broker.grant("count", L2)
        calling = asyncio.create_task(broker.call("count", "add"))
        await counter.add.entered.wait()
        with pytest.raises(NanoclawError) as raised:
            async with start(listen=f"unix:{home}/run/second.sock", lock_seconds=1.0):
                pass
        assert raised.value.reason == "ALREADY_RUNNING"
        counter.add.gate.set()
        assert (await calling).code == "OK"


async def test_a_stop_waits_for_what_is_under_way(start: Any, counter: Any, home: Path) -> None:
    """SIGTERM lets a call end within the grace; its answer is found afterwards."""
    counter.add.gate = asyncio.Event()
    async with start() as broker:
        await broker.grant("count", L2)
        calling = asyncio.create_task(broker.call("count", "add", request_id="r"))
        await counter.add.entered.wait()
        asyncio.get_running_loop().call_later(0.3, counter.add.gate.set)
    with pytest.raises((NanoclawError, asyncio.CancelledError)):
        assert (await calling).code == "OK"
        raise asyncio.CancelledError
    assert states(home / "store" / "nanoclaw.db") == [("r", State.EXECUTED, "OK")]


async def test_what_does_not_end_in_time_is_unknown_when_the_broker_stops(start: Any, counter: Any, home: Path) -> None:
    """A call cut off by a stop is settled as what it is, before the database closes."""
    counter.add.gate = asyncio.Event()
    async with start(grace_seconds=1.0) as broker:
        await broker.grant("count", L2)
        calling = asyncio.create_task(broker.call("count", "add", request_id="r"))
        await counter.add.entered.wait()
    await asyncio.gather(calling, return_exceptions=True)
    assert states(home / "store" / "nanoclaw.db") == [("r", State.UNKNOWN, "EFFECT_UNKNOWN")]


async def test_a_ledger_that_cannot_be_written_is_waited_for(
    broker: Any, counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The effect has happened and the disk is full: the caller is told once it is recorded, not before."""
    await broker.grant("count", L2)
    write, refused = Database.write, []

    async def full(self: Database, unit: Any) -> Any:
        if counter.add.effects and len(refused) < 3:
            refused.append(unit)
            raise NanoclawError(Kind.UNAVAILABLE, "STORE_FULL", "the disk is full")
        return await write(self, unit)

    monkeypatch.setattr(Database, "write", full)
    answer = await broker.call("count", "add")
    assert (answer.code, len(refused), counter.effects) == ("OK", 3, 1)
