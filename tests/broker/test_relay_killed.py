"""The broker is killed in the middle of a thought: the agent sees its stream end, the ledger and the budget agree."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from messages_api import MessagesApi, Reply

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.runtime.v1 import runtime_pb2 as rt
from nanoclaw.runtime.v1 import runtime_pb2_grpc
from nanoclaw_store.testing import invariants

ASK = {"model": "claude-test", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
ATTEMPT = "nc-0123456789abcdef0123-1"
ENDED = (pb.CALL_STATE_EXECUTED, pb.CALL_STATE_ABANDONED)


@pytest.fixture
def silent() -> Iterator[Reply]:
    """An answer that falls silent before its second piece, until the test is over."""
    over = threading.Event()
    yield Reply(pause=lambda number: over.wait(30) if number == 1 else None)
    over.set()


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as server:
        yield server


@asynccontextmanager
async def broker(home: Path, dial: Any) -> AsyncIterator[tuple[subprocess.Popen[bytes], Any]]:
    """A real process, once it serves, and a founder's stub of it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}
    running = subprocess.Popen(
        [sys.executable, "-m", "nanoclaw_broker"],
        env=environ | {"NANOCLAW_HOME": str(home)},
        stderr=subprocess.DEVNULL,
    )
    try:
        channel = dial(f"unix:{home}/run/broker.sock", "operator:founder", attempts=40, timeout=30)
        stub = broker_pb2_grpc.BrokerServiceStub(channel)
        await stub.GetStatus(pb.GetStatusRequest())
        yield running, stub
    finally:
        if running.poll() is None:
            running.kill()
        await asyncio.to_thread(running.wait)


def client(folder: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=f"{folder}/llm.sock", verify=False)
    return httpx.AsyncClient(transport=transport, base_url="http://relay", timeout=15)


@pytest.mark.crash
async def test_a_stream_ends_with_its_broker_and_the_next_one_serves(
    home: Path, dial: Any, governance: Any, governance_server: Any, api: MessagesApi, silent: Reply
) -> None:
    """SIGKILL in a stream: UNKNOWN, harmless, so given up; what was set aside for it counts as spent."""
    api.configure(home)
    api.next(silent)
    governance.put("t1")
    heard: list[str] = []

    async def think(folder: str) -> None:
        async with client(folder) as agent, agent.stream("POST", "/v1/messages", json=ASK | {"stream": True}) as stream:
            async for line in stream.aiter_lines():
                heard.append(line)

    async with broker(home, dial) as (running, founder):
        grant = pb.GrantRequest(request_id="g", group="developer", provider="llm", access_level=pb.ACCESS_LEVEL_L2)
        await founder.Grant(grant)
        runtime: Any = runtime_pb2_grpc.RuntimeServiceStub(dial(f"unix:{home}/run/broker.sock", "operator:founder"))
        day = rt.SetBudgetRequest(request_id="b", group="developer", limit_cents=100, period=rt.BUDGET_PERIOD_DAY)
        await runtime.SetBudget(day)
        dispatcher: Any = broker_pb2_grpc.BrokerServiceStub(dial(f"unix:{home}/run/broker.sock", "service:dispatcher"))
        relay = pb.OpenRelayRequest(request_id="o", attempt_id=ATTEMPT, group="developer", task_id="t1")
        folder = (await dispatcher.OpenRelay(relay)).path
        thinking = asyncio.create_task(think(folder))
        async with asyncio.timeout(10):
            while not any("Hello" in line for line in heard):
                await asyncio.sleep(0.01)
        (sent,) = rows(home)
        assert (sent["state"], spending(home)) == ("SENT", (sent["cost_micros"], 0))
        assert sent["cost_micros"] > 0
        running.send_signal(signal.SIGKILL)
        async with asyncio.timeout(5):  # not when the API goes on, nor when the agent loses patience
            with pytest.raises(httpx.TransportError):
                await thinking
    assert not any("message_stop" in line for line in heard)
    async with client(folder) as agent:
        with pytest.raises(httpx.ConnectError):  # nobody serves, and nobody pretends to
            await agent.post("/v1/messages", json=ASK)

    async with broker(home, dial) as (_, founder):
        async with client(folder) as agent:
            answer = await agent.post("/v1/messages", json=ASK)
        assert (answer.status_code, answer.json()["content"][0]["text"]) == (200, "Hello, world")
        async with asyncio.timeout(10):
            while any(one.state not in ENDED for one in (await listed(founder))):
                await asyncio.sleep(0.01)
        new, old = await listed(founder)
        assert (old.call_id, old.state, old.code) == (sent["call_id"], pb.CALL_STATE_ABANDONED, "GIVEN_UP")
        assert (old.settlement.principal, old.cost_micros) == ("service:broker", sent["cost_micros"])
        assert (new.state, new.code) == (pb.CALL_STATE_EXECUTED, "OK")
        assert spending(home) == (0, old.cost_micros + new.cost_micros)
        left = await runtime.GetBudget(rt.GetBudgetRequest(group="developer"))
        assert {line.reserved_micros for line in left.lines} == {0}
    invariants(home / "store" / "nanoclaw.db")
    assert [request.get("stream", False) for request in api.requests] == [True, False]  # and nothing twice


async def listed(founder: Any) -> list[pb.CallRecord]:
    """Newest first."""
    return list((await founder.ListCalls(pb.ListCallsRequest())).calls)


def rows(home: Path) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(home / "store" / "nanoclaw.db")) as database:
        database.row_factory = sqlite3.Row
        return database.execute("SELECT * FROM ext_calls ORDER BY call_id").fetchall()


def spending(home: Path) -> tuple[int, int]:
    """Reserved and spent by the group, ever."""
    sql = "SELECT reserved_micros, spent_micros FROM ext_spending WHERE day = '' AND group_name = 'developer'"
    with closing(sqlite3.connect(home / "store" / "nanoclaw.db")) as database:
        found: tuple[int, int] = database.execute(sql).fetchone()
        return found
