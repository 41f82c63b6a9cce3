"""The command against the four real services: what a person does on the first day."""

import asyncio
import os
import sys
from typing import Any

import pytest

from nanoclaw_cli.supervisor import Supervisor


async def ended(nanoclaw: Any) -> list[dict[str, Any]]:
    """The dispatches, once each has ended: the last one does a moment after its task is DONE."""
    async with asyncio.timeout(20):
        while True:
            everything = (await nanoclaw("dispatch", "list", "--task", "t1", "--json")).json
            done = (await nanoclaw("dispatch", "list", "--task", "t1", "--state", "done", "--json")).json
            if len(done) == len(everything):
                return list(done)


@pytest.mark.system
async def test_a_task_from_creation_to_done_by_commands_alone(nanoclaw: Any, home: Any) -> None:
    """Blocked for want of a grant, granted, unblocked, reviewed, finished; then looked at from every side."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}
    async with Supervisor(home, [sys.executable], environ).running():
        call = 'do: call json transform {"expression": "sum(x)", "data": {"x": [1, 2]}} -> sum.json'
        assert (await nanoclaw("product", "create", "Atlas", "--id", "atlas")).code == 0
        ran = await nanoclaw(
            *("task", "create", "Sum up", "-g", "developer", "--gate", "security", "--product", "Atlas"),
            *("--id", "t1", "-d", call, "--ready"),
        )
        assert (ran.code, ran.err) == (0, "")
        assert (await nanoclaw("task", "watch", "t1", "--until", "blocked")).code == 0
        assert "NO_CAPABILITY" in (await nanoclaw("task", "get", "t1")).out
        assert (await nanoclaw("grant", "developer", "json", "L1", "--product", "atlas")).code == 0
        assert (await nanoclaw("task", "move", "t1", "doing", "-r", "granted")).code == 0
        assert (await nanoclaw("task", "watch", "t1", "--until", "done")).code == 0

        history = (await nanoclaw("task", "history", "t1", "--json")).json
        states = [one["to_state"].removeprefix("TASK_STATE_") for one in history if one["action"] == "transition"]
        assert states == ["TRIAGED", "READY", "DOING", "BLOCKED", "DOING", "REVIEW", "APPROVAL", "DONE"]
        calls = (await nanoclaw("call", "list", "--task", "t1", "--json")).json
        assert [one["state"] for one in calls] == ["CALL_STATE_EXECUTED", "CALL_STATE_DENIED"]
        assert len((await nanoclaw("call", "list", "--state", "denied", "--json")).json) == 1
        dispatches = await ended(nanoclaw)
        assert {one["group"] for one in dispatches} == {"developer", "security"}
        assert (await nanoclaw("dispatch", "get", dispatches[0]["id"])).code == 0
        assert (await nanoclaw("task", "context", "t1")).code == 0
        assert "json.transform" in (await nanoclaw("task", "context", "t1")).out
        refused = await nanoclaw("task", "move", "t1", "doing")
        assert (refused.code, refused.err.split(":")[0]) == (1, "error NO_SUCH_EDGE")
        status = (await nanoclaw("status", "--json")).json
        assert status["tasks"]["DONE"] == 1
        assert status["dispatches"]["failed"] == 0
        assert not [name for name in status if name.endswith("_problem")]
    ran = await nanoclaw("audit", "verify", "--json")
    assert (ran.code, ran.json["ok"]) == (0, True)
