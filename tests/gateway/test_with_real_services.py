"""The gateway before the real governance and the real broker: what agents get to see of their rules."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceStub
from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw.governance.v1.governance_pb2_grpc import GovernanceServiceStub
from nanoclaw_rpc import Credentials, connect

CREATE = {"type": "gov_create", "title": "Fix login", "task_type": "BUG"}


@pytest.fixture
async def real(make_world: Any) -> AsyncIterator[Any]:
    """A world whose far sides are processes."""
    home = Path(tempfile.mkdtemp(dir="/tmp", prefix="nc-gw-"))
    Credentials.open(home / "secrets")
    (home / "run").mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}
    environ |= {"NANOCLAW_HOME": str(home), "NANOCLAW_LOG_LEVEL": "ERROR"}
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", module, env=environ)
        for module in ("nanoclaw_governance", "nanoclaw_broker")
    ]
    world = make_world(home)
    try:
        for name in ("governance", "broker"):
            await world.until((home / "run" / f"{name}.sock").exists)
        async with world.running():
            yield world
    finally:
        for channel in world.channels:
            await channel.close()
        for process in processes:
            process.terminate()
            await process.wait()
        world.check_invariants()
        shutil.rmtree(home, ignore_errors=True)


def dial(world: Any, service: str, token: str, stub: Any) -> Any:
    """A client of another service."""
    channel = connect(f"unix:{world.home}/run/{service}.sock", token_file=world.home / "secrets" / f"{token}.token")
    world.channels.append(channel)
    return stub(channel)


async def test_agents_work_by_files_and_meet_the_rules(real: Any) -> None:
    """Create, refuse, fence, conflict, grant, call: each as governance and the broker decide it."""
    main, developer = real.mailbox("main"), real.mailbox("developer")
    assert (await developer.ask(CREATE))["status"] == "denied"
    created = await main.ask({**CREATE, "id": "t-1", "assigned_group": "developer", "request_id": "r-1"})
    assert (created["status"], created["data"]["id"], created["data"]["state"]) == ("executed", "t-1", "INBOX")
    assert (await main.ask({**CREATE, "id": "t-1", "assigned_group": "developer", "request_id": "r-1"})) == {
        **created, "timestamp": real.any_text,
    }  # fmt: skip
    for state in ("TRIAGED", "READY", "DOING"):
        moved = await main.ask({"type": "gov_transition", "taskId": "t-1", "toState": state})
        assert moved["data"]["state"] == state, moved
    stale = await developer.ask({"type": "gov_transition", "taskId": "t-1", "toState": "REVIEW", "expectedVersion": 1})
    assert (stale["status"], stale["code"]) == ("failed", "STALE_VERSION")
    assert stale["facts"]["actual"] == str(moved["data"]["version"])

    client = dial(real, "governance", "services/dispatcher", GovernanceServiceStub)
    dispatcher = real.stub("services/dispatcher")
    for fence in (1, 2):
        await dispatcher.OpenMailbox(
            gateway.OpenMailboxRequest(
                request_id=f"o{fence}", attempt_id=f"nc-a-{fence}", group="developer", task_id="t-1", fence=fence
            )
        )
        await client.BindAttempt(
            governance.BindAttemptRequest(
                request_id=f"b{fence}", task_id="t-1", group="developer", attempt_id=f"nc-a-{fence}", fence=fence
            )
        )
    hand_in = {"type": "gov_transition", "taskId": "t-1", "toState": "REVIEW", "reason": "did it"}
    fenced = await real.attempt("nc-a-1").ask(hand_in)
    assert (fenced["status"], fenced["code"]) == ("denied", "STALE_ATTEMPT")
    done = await real.attempt("nc-a-2").ask(hand_in)
    assert (done["status"], done["data"]["state"]) == ("executed", "REVIEW")
    task = (await client.GetTask(governance.GetTaskRequest(task_id="t-1"))).task
    assert (task.review_summary, list(task.executors)) == ("did it", ["group:developer"])
    await real.until(lambda: [it["state"] for it in developer.snapshot("gov_pipeline.json")["tasks"]] == ["REVIEW"])


async def test_a_call_is_granted_signed_made_and_kept(real: Any) -> None:
    """Denied without a grant, with the smallest step that would help; executed with one; forged, it is on record."""
    main, developer = real.mailbox("main"), real.mailbox("developer")
    call = {
        "type": "ext_call", "provider": "json", "action": "transform",
        "params": {"data": {"a": 1.50}, "expression": "a"},
    }  # fmt: skip
    denied = await developer.ask(developer.sign({**call, "request_id": "e1"}))
    assert denied["status"] == "denied"
    assert denied["next_steps"]
    granted = await main.ask({"type": "ext_grant", "group_folder": "developer", "provider": "json", "access_level": 1})
    assert granted["data"]["access_level"] == 1, granted
    executed = await developer.ask(developer.sign({**call, "request_id": "e2"}))
    assert executed["status"] == "executed", executed
    forged = await developer.ask({**developer.sign({**call, "request_id": "e3"}), "action": "other"})
    assert forged["status"] == "denied"
    ledger = await dial(real, "broker", "operators/founder", BrokerServiceStub).ListCalls(broker.ListCallsRequest())
    assert {record.request_id for record in ledger.calls} >= {"e1", "e2"}
    await real.until(lambda: developer.snapshot("ext_capabilities.json")["capabilities"])
    assert developer.snapshot("ext_capabilities.json")["capabilities"][0]["actions"]["transform"]["level"] == 1
