"""Limits across SIGKILL of a real broker: what keeps failing is still left alone, no cent is spent twice or lost."""

import asyncio
import json
import sqlite3
from collections import Counter as Tally
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from broker_process import process, reach

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.runtime.v1 import runtime_pb2 as rt
from nanoclaw.runtime.v1 import runtime_pb2_grpc
from nanoclaw_broker.breaker import FAILURES
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import on_behalf
from nanoclaw_store.testing import invariants

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

CENT = 10_000
WORST, REAL, BUDGET = 10 * CENT, 4 * CENT, 105 * CENT
QUIET = {"RATE_L1": "100000", "PENDING": "1000", "RECONCILE_SECONDS": "0.05", "QUIET_SECONDS": "0.2"}


class Callers:
    """Calls for the group developer, to whichever broker listens now."""

    def __init__(self, home: Path, gateway: Any) -> None:
        self.home, self._gateway = home, gateway

    async def call(self, action: str, key: str) -> pb.CallResponse:
        request = pb.CallRequest(provider="count", action=action, params_json=json.dumps({"key": key}))
        request.request_id, request.attestation.signature = key, pb.Attestation.SIGNATURE_VALID
        return await self._gateway.Call(request, metadata=on_behalf("developer"), timeout=20)

    def many(self, action: str, tag: str, count: int = 64) -> list[asyncio.Task[pb.CallResponse]]:
        """So many at once."""
        return [asyncio.create_task(self.call(action, f"{tag}-{number}")) for number in range(count)]


async def so_many_end(calls: list[asyncio.Task[pb.CallResponse]], count: int) -> Tally[str]:
    """The codes of the first ones that end."""
    while sum(call.done() for call in calls) < count:
        await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
    return Tally(call.result().code for call in calls if call.done())


async def die(running: Any, calls: list[asyncio.Task[pb.CallResponse]]) -> None:
    """As SIGKILL has it; nobody who waits is answered."""
    waiting = [call for call in calls if not call.done()]
    running.kill()
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, NanoclawError)


async def connected(dial: Any, home: Path, level: Any) -> Callers:
    """With a grant."""
    founder = await reach(dial, home, "operator:founder")
    await founder.Grant(pb.GrantRequest(request_id="g", group="developer", provider="count", access_level=level))
    return Callers(home, await reach(dial, home, "service:gateway", attempts=1, timeout=20))


def looks(home: Path) -> int:
    return len((home / "looks.log").read_text().split())


async def test_a_breaker_counts_stays_open_and_sends_one_probe_across_sigkill(
    home: Path, dial: Any, governance_server: Any
) -> None:
    """Failures before a kill count after it; open stays open till the same moment; a probe that died makes room."""
    (home / "trouble").touch()
    with process(home, **QUIET) as running:
        callers = await connected(dial, home, pb.ACCESS_LEVEL_L1)
        for number in range(FAILURES - 1):
            assert (await callers.call("look", f"before-{number}")).code == "SERVICE_UNAVAILABLE"
        await die(running, [])
    with process(home, **QUIET) as running:
        callers = await connected(dial, home, pb.ACCESS_LEVEL_L1)
        assert (await callers.call("look", "the-last")).code == "SERVICE_UNAVAILABLE"
        opened = await callers.call("look", "too-much")
        assert opened.code == "CIRCUIT_OPEN"
        await die(running, [])
    with process(home, **QUIET) as running:
        callers = await connected(dial, home, pb.ACCESS_LEVEL_L1)
        still = await callers.call("look", "after")
        assert (still.code, still.facts["retry_at"]) == ("CIRCUIT_OPEN", opened.facts["retry_at"])
        await die(running, [])
    assert looks(home) == FAILURES
    with closing(sqlite3.connect(home / "store" / "nanoclaw.db", isolation_level=None)) as database:  # ten minutes pass
        database.execute("UPDATE ext_breakers SET opened_at = '2026-01-01T00:00:00.000000Z'")
    (home / "held").touch()
    (home / "trouble").unlink()
    for life in (1, 2):
        with process(home, **QUIET) as running:
            callers = await connected(dial, home, pb.ACCESS_LEVEL_L1)
            calls = callers.many("look", f"life-{life}")
            assert await so_many_end(calls, 63) == {"CIRCUIT_OPEN": 63}
            while looks(home) < FAILURES + life:  # it is claimed before the others are refused, and then sent
                assert not all(call.done() for call in calls), "none of them was the probe"
                await asyncio.sleep(0.005)
            if life == 1:
                await die(running, calls)
            else:
                (home / "held").unlink()
                assert await so_many_end(calls, 64) == {"CIRCUIT_OPEN": 63, "OK": 1}
                assert (await callers.call("look", "at-last")).code == "OK"
    assert looks(home) == FAILURES + 3
    invariants(home / "store" / "nanoclaw.db")


async def test_a_budget_is_exact_across_sigkill(home: Path, dial: Any, governance_server: Any) -> None:
    """What was set aside for calls that died is neither leaked nor free before it is known that they cost nothing."""
    with process(home, **QUIET) as running:
        callers = await connected(dial, home, pb.ACCESS_LEVEL_L2)
        await runtime(dial, home).SetBudget(
            rt.SetBudgetRequest(
                request_id="b", group="developer", period=rt.BUDGET_PERIOD_TOTAL, limit_cents=BUDGET // CENT
            )
        )
        (home / "held").touch()
        calls = callers.many("buy", "first")
        assert await so_many_end(calls, 54) == {"BUDGET_EXCEEDED": 54}
        assert spending(home) == (10 * WORST, 0)
        await die(running, calls)
    assert spending(home) == (10 * WORST, 0)  # nobody has looked at it yet
    with process(home, **{**QUIET, "QUIET_SECONDS": "600"}) as running:
        callers = await connected(dial, home, pb.ACCESS_LEVEL_L2)
        assert spending(home) == (0, 10 * WORST)  # nobody knows whether they were done
        assert await so_many_end(callers.many("buy", "second"), 64) == {"BUDGET_EXCEEDED": 64}
        await die(running, [])
    with process(home, **QUIET) as running:
        founder = await reach(dial, home, "operator:founder")
        callers = await connected(dial, home, pb.ACCESS_LEVEL_L2)
        while (await founder.ListCalls(pb.ListCallsRequest(states=[pb.CALL_STATE_UNKNOWN]))).calls:
            await asyncio.sleep(0.01)
        assert spending(home) == (0, 0)  # none of them was done
        calls = callers.many("buy", "third")
        assert await so_many_end(calls, 54) == {"BUDGET_EXCEEDED": 54}
        (home / "held").unlink()
        assert await so_many_end(calls, 64) == {"BUDGET_EXCEEDED": 54, "OK": 10}
        assert spending(home) == (0, 10 * REAL)
        await die(running, [])
    effects = (home / "effects.log").read_text().split()
    assert len(effects) == len(set(effects)) == 10
    with process(home, **QUIET):
        await reach(dial, home, "operator:founder")
        assert spending(home) == (0, 10 * REAL)
    invariants(home / "store" / "nanoclaw.db")


def runtime(dial: Any, home: Path) -> Any:
    return runtime_pb2_grpc.RuntimeServiceStub(dial(f"unix:{home}/run/broker.sock", "operator:founder"))


def spending(home: Path) -> tuple[int, int]:
    """What the group has reserved and spent, for ever."""
    with closing(sqlite3.connect(f"file:{home}/store/nanoclaw.db?mode=ro", uri=True)) as database:
        query = "SELECT reserved_micros, spent_micros FROM ext_spending WHERE group_name = 'developer' AND day = ''"
        row: tuple[int, int] = database.execute(query).fetchone()
        return row
