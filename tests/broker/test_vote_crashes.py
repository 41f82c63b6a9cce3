"""Killed between any two steps of a vote: nothing is repeated, and no vote counts twice."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.broker_process import reach

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Role
from nanoclaw_rpc import Credentials, on_behalf
from nanoclaw_store.testing import invariants

DIE = """
import os, signal, sys
from nanoclaw_broker import calls, pendings, votes
from nanoclaw_broker.execution import Executor
from nanoclaw_store import Database

at = os.environ["DIE_AT"]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if at == "before_vote":
    votes.cast = die
elif at == "before_release":
    calls.release = die
elif at == "before_sent":
    calls.mark_sent = die
elif at == "sent":
    Executor._perform = die
elif at == "before_settle":
    calls.settle = die
elif at == "before_expiry":
    pendings.end = die
from nanoclaw_broker.__main__ import main
sys.exit(main())
"""

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]


@contextmanager
def process(home: Path, at: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real broker that kills itself with SIGKILL when it comes to that step."""
    plugins = Path(__file__).parents[1] / "support" / "plugins"
    environ = {**os.environ, "NANOCLAW_HOME": str(home), "DIE_AT": at}
    environ["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}:{plugins}"
    with (home / "logs" / "broker.log").open("ab") as output:
        running = subprocess.Popen([sys.executable, "-c", DIE], env=environ, stderr=output)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
        running.wait()


@pytest.mark.parametrize(
    ("at", "state", "code", "effects"),
    [
        ("before_vote", "EXECUTED", "OK", 1),
        ("before_release", "EXECUTED", "OK", 1),
        ("before_sent", "FAILED", "NEVER_SENT", 0),
        ("sent", "UNKNOWN", "EFFECT_UNKNOWN", 0),
        ("before_settle", "UNKNOWN", "EFFECT_UNKNOWN", 1),
    ],
)
async def test_killed_at_any_step_of_the_last_vote_nothing_happens_twice(
    home: Path, dial: Any, governance: Any, governance_server: Any, credentials: Credentials,
    at: str, state: str, code: str, effects: int,
) -> None:  # fmt: skip
    """The voter sends the same request to the next broker: its vote counts once, what may have happened stays so."""
    credentials.add_operator("ana", Role.APPROVER)
    governance.put("t1", approver_group="security")
    behalf = on_behalf("developer")
    with process(home, at) as dying:
        founder = await reach(dial, home, "operator:founder", attempts=40)
        gateway = await reach(dial, home, "service:gateway")
        grant = pb.GrantRequest(request_id="g", group="developer", provider="count", access_level=pb.ACCESS_LEVEL_L3)
        await founder.Grant(grant)
        call = pb.CallRequest(
            request_id="r", provider="count", action="launch", params_json='{"key": "k"}', task_id="t1",
            attestation=pb.Attestation(signature=pb.Attestation.SIGNATURE_VALID),
        )  # fmt: skip
        waiting = await gateway.Call(call, metadata=behalf)
        assert waiting.code == "APPROVAL_PENDING"
        votes = [
            pb.ApproveCallRequest(request_id=who, call_id=waiting.call_id, params_digest=waiting.facts["params_digest"])
            for who in ("ana", "founder")
        ]
        ana = await reach(dial, home, "operator:ana", attempts=1, timeout=10)
        once = await reach(dial, home, "operator:founder", attempts=1, timeout=10)
        if at != "before_vote":
            await ana.ApproveCall(votes[0])
        with pytest.raises(NanoclawError):
            await (ana if at == "before_vote" else once).ApproveCall(votes[0 if at == "before_vote" else 1])
        dying.wait(10)
        assert dying.returncode == -signal.SIGKILL
    assert invariants(home / "store" / "nanoclaw.db") is None
    with process(home, ""):
        founder = await reach(dial, home, "operator:founder")
        ana = await reach(dial, home, "operator:ana")
        gateway = await reach(dial, home, "service:gateway")
        if at == "before_vote":
            await ana.ApproveCall(votes[0])
        last = await founder.ApproveCall(votes[1])
        assert last.outcome.code == code
        again = await gateway.Call(call, metadata=behalf)
        assert (again.code, again.call_id, again.replayed) == (code, waiting.call_id, True)
        record = (await founder.GetCall(pb.GetCallRequest(call_id=waiting.call_id))).call
        assert pb.CallState.Name(record.state) == f"CALL_STATE_{state}"
        assert len(record.votes) == 2
    assert effect_count(home) == effects
    invariants(home / "store" / "nanoclaw.db")


def effect_count(home: Path) -> int:
    file = home / "effects.log"
    return len(file.read_text().split()) if file.exists() else 0


async def test_killed_while_it_expires_it_expires_at_the_next_start(
    home: Path, dial: Any, governance: Any, governance_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep of the next broker ends it, before anybody asks."""
    monkeypatch.setenv("NANOCLAW_BROKER_APPROVAL_SECONDS", "1")
    governance.put("t1")
    with process(home, "before_expiry") as dying:
        founder = await reach(dial, home, "operator:founder")
        gateway = await reach(dial, home, "service:gateway")
        grant = pb.GrantRequest(request_id="g", group="developer", provider="count", access_level=pb.ACCESS_LEVEL_L3)
        await founder.Grant(grant)
        call = pb.CallRequest(
            request_id="r", provider="count", action="launch", params_json='{"key": "k"}', task_id="t1",
            attestation=pb.Attestation(signature=pb.Attestation.SIGNATURE_VALID),
        )  # fmt: skip
        waiting = await gateway.Call(call, metadata=on_behalf("developer"))
        dying.wait(20)
        assert dying.returncode == -signal.SIGKILL
    with process(home, ""):
        founder = await reach(dial, home, "operator:founder")
        record = (await founder.GetCall(pb.GetCallRequest(call_id=waiting.call_id))).call
        assert (record.state, record.code) == (pb.CALL_STATE_EXPIRED, "APPROVAL_EXPIRED")
    with closing(sqlite3.connect(f"file:{home}/store/nanoclaw.db?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM ext_params").fetchone() == (0,)
