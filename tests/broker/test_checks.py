"""Each of the 21 checks, on a broker that serves: with it a known call has a known end, and without it another one."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw_broker import answers, asking, call, calls
from nanoclaw_broker.execution import Claimed, Executor
from nanoclaw_broker.ledger import Kind
from nanoclaw_broker.providers import Result
from nanoclaw_core.errors import NanoclawError

L1, L2, L3 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2, pb.ACCESS_LEVEL_L3


@dataclass
class World:
    """A broker, its far side, and governance. times: how often the known call was made."""

    broker: Any
    counter: Any
    governance: Any
    times: int = 0

    async def call(self, action: str = "add", provider: str = "count", **fields: Any) -> str:
        """One call's code, or the reason for which there is no answer."""
        params = fields.pop("params", None)
        try:
            return str((await self.broker.call(provider, action, params, **fields)).code)
        except NanoclawError as error:
            return error.reason

    def new(self, name: str) -> str:
        """An id that no call had before."""
        return f"{name}-{self.times}"

    def states(self) -> list[str]:
        """Of all calls in the ledger, oldest first."""
        with closing(sqlite3.connect(f"file:{self.broker.database}?mode=ro", uri=True)) as database:
            return [state for (state,) in database.execute("SELECT state FROM ext_calls ORDER BY call_id")]


Known = Callable[[World], Awaitable[str]]
KNOWN: dict[int, tuple[Known, str]] = {}
"""By the check's number: what is asked, and what comes of it: the code, what was done, and the ledger's last word."""


def known(number: int, end: str) -> Callable[[Known], Known]:
    """Of a check."""

    def keep(ask: Known) -> Known:
        KNOWN[number] = ask, end
        return ask

    return keep


@known(1, "INVALID_FIELD, 0 done, nothing in the ledger")
async def fields(world: World) -> str:
    await world.broker.grant()
    return await world.call(idempotency_key="not a key")


@known(2, "SIGNATURE_WRONG, 0 done, nothing in the ledger")
async def credential(world: World) -> str:
    await world.broker.grant()
    return await world.call(attestation=pb.Attestation(signature=pb.Attestation.SIGNATURE_WRONG))


@known(3, "REQUEST_ID_REUSED, 1 done, EXECUTED")
async def request_id(world: World) -> str:
    await world.broker.grant()
    await world.call(request_id=world.new("r"), params={"text": "one"})
    return await world.call(request_id=world.new("r"), params={"text": "two"})


@known(4, "FROZEN, 0 done, DENIED")
async def kill_switch(world: World) -> str:
    await world.broker.grant()
    await world.broker.freeze(L1)
    return await world.call()


@known(5, "BUSY, 1 done, EXECUTED")
async def busy(world: World) -> str:
    await world.broker.grant()
    world.counter.look.gate = asyncio.Event()
    world.counter.look.entered.clear()
    under_way = asyncio.create_task(world.call("look"))
    await world.counter.look.entered.wait()
    code = await world.call("compute")
    world.counter.look.gate.set()
    await under_way
    return code


@known(6, "UNKNOWN_PROVIDER, 0 done, DENIED")
async def provider(world: World) -> str:
    return await world.call(provider="nowhere")


@known(7, "UNKNOWN_ACTION, 0 done, DENIED")
async def action(world: World) -> str:
    await world.broker.grant()
    return await world.call("fly")


@known(8, "SECRETS_MISSING, 0 done, DENIED")
async def secrets(world: World) -> str:
    await world.broker.grant("locked")
    return await world.call("look", "locked")


@known(9, "NO_CAPABILITY, 0 done, DENIED")
async def capability(world: World) -> str:
    return await world.call()


@known(10, "CAPABILITY_EXPIRED, 0 done, DENIED")
async def expiry(world: World) -> str:
    await world.broker.grant()
    with closing(sqlite3.connect(world.broker.database, isolation_level=None)) as database:  # a week passes
        database.execute("UPDATE ext_capabilities SET expires_at = '2026-01-01T00:00:00.000000Z'")
    return await world.call()


@known(11, "LEVEL_TOO_LOW, 0 done, DENIED")
async def level(world: World) -> str:
    await world.broker.grant(level=L1)
    return await world.call()


@known(12, "ACTION_DENIED, 0 done, DENIED")
async def denied_actions(world: World) -> str:
    await world.broker.grant(denied_actions=["add"])
    return await world.call()


@known(13, "ACTION_NOT_ALLOWED, 0 done, DENIED")
async def allowed_actions(world: World) -> str:
    await world.broker.grant(allowed_actions=["drop"])
    return await world.call()


@known(14, "TASK_STATE, 0 done, DENIED")
async def task(world: World) -> str:
    await world.broker.grant()
    world.governance.put("t1", state=gov.TASK_STATE_REVIEW)
    return await world.call(task_id="t1")


@known(15, "INVALID_PARAMS, 0 done, DENIED")
async def params(world: World) -> str:
    await world.broker.grant()
    return await world.call(params={"text": ["no", "text"]})


@known(16, "IDEMPOTENCY_KEY_REUSED, 1 done, DENIED")
async def idempotency(world: World) -> str:
    await world.broker.grant()
    await world.call(idempotency_key=world.new("k"), params={"text": "one"})
    return await world.call(idempotency_key=world.new("k"), params={"text": "two"})


@known(17, "QUOTA_EXHAUSTED, 1 done, DENIED")
async def limits(world: World) -> str:
    await world.broker.grant()
    await world.call("add")
    return await world.call("drop")


@known(18, "APPROVAL_PENDING, 0 done, AWAITING_APPROVAL")
async def votes(world: World) -> str:
    await world.broker.grant(level=L3)
    world.governance.put("t1", gate=gov.GATE_SECURITY)
    world.governance.live["t1"] = [gov.GATE_SECURITY]
    return await world.call("launch", task_id="t1")


@known(19, "OK, 1 done, EXECUTED")
async def claim(world: World) -> str:
    await world.broker.grant()
    asked = world.new("r")
    return max(await asyncio.gather(*(world.call("compute", request_id=asked) for _ in range(3))))


@known(20, "OK, 1 done, EXECUTED")
async def execute(world: World) -> str:
    await world.broker.grant()
    return await world.call()


@known(21, "OK, 1 done, EXECUTED")
async def settle(world: World) -> str:
    await world.broker.grant()
    return await world.call()


async def end(world: World, number: int) -> str:
    """What comes of the known call of a check."""
    before, ledger = world.counter.effects, len(world.states())
    world.times += 1
    code = await KNOWN[number][0](world)
    last = world.states()[ledger:][-1:]
    return f"{code}, {world.counter.effects - before} done, {last[0] if last else 'nothing in the ledger'}"


def take_out(number: int, patch: pytest.MonkeyPatch) -> None:
    """A rule of the decision by its number, a deed by doing nothing in its place."""
    match number:
        case 1:
            for name in ("check_name", "check_request_id", "_check_key"):
                patch.setattr(asking, name, lambda *value: value[-1])
        case 19:
            patch.setattr(calls, "claim", lambda *_: None)
        case 20:
            patch.setattr(Executor, "_perform", _say_that_it_is_done)
        case 21:
            patch.setattr(calls, "settle", lambda *_, **__: None)
        case _:
            rules = (*call.BEFORE_TASK, *call.AFTER_TASK)
            mine = {rule for rule in rules if (rule.__doc__ or "").startswith(f"{number}. ")}
            assert mine, "the decision has no such check"
            for name in ("BEFORE_TASK", "AFTER_TASK"):
                patch.setattr(call, name, tuple(rule for rule in getattr(call, name) if rule not in mine))


async def _say_that_it_is_done(self: Executor, claimed: Claimed, kind: Kind, exchange: Any) -> answers.Ended:
    return answers.executed(claimed.call_id, kind, Result(None), {}, self._secrets)


@pytest.mark.parametrize("number", range(1, 22))
async def test_without_a_check_a_known_call_ends_otherwise(
    start: Any, counter: Any, governance: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The answer, the effects or the ledger: one of them shows that the check is gone, for each of the 21."""
    limits: dict[str, int] = {5: {"pending": 1}, 17: {"soft_l2": 1, "hard_l2": 1}}.get(number, {})
    async with start(**limits) as broker:
        world = World(broker, counter, governance)
        assert await end(world, number) == KNOWN[number][1]
        with monkeypatch.context() as patch:
            take_out(number, patch)
            assert await end(world, number) != KNOWN[number][1]
        broker.database.unlink()  # what was broken here is not held against the invariants
