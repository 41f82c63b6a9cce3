"""What a person sees in Jaeger: a real one, fed by the four services and their agents, asked by its query API."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from docs.waterfall import draw
from jaeger import Jaeger, jaeger

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import connect

BINARY = shutil.which("jaeger")
PLANTED = "hunter2-the-planted-word"
WORK = f"""Add up what mail cost. The password is {PLANTED}.

do: fail 1 times: {PLANTED}
do: call json transform {{"expression": "sum(x) || '{PLANTED}'", "data": {{"x": [1250, 3400]}}}}
do: try call http get {{"url": "https://example.com/?key={PLANTED}"}}
do: message {PLANTED}
"""

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(BINARY is None, reason="jaeger is not on PATH (`make jaeger` builds it, with Go)"),
]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Jaeger]:
    """A Jaeger, serving."""
    assert BINARY is not None
    async with jaeger(BINARY, tmp_path) as found:
        yield found


async def run(home: Path) -> pb.Task:
    """A task behind a Security gate: refused once, granted, failed once, called, approved, DONE."""
    token = home / "secrets" / "operators" / "founder.token"
    async with (
        connect(SERVICES[0].target(home), token_file=token) as to_governance,
        connect(SERVICES[1].target(home), token_file=token) as to_broker,
    ):
        governance = governance_pb2_grpc.GovernanceServiceStub(to_governance)
        grant = broker.GrantRequest(
            request_id="g", group="developer", provider="json", access_level=broker.ACCESS_LEVEL_L1
        )
        await broker_pb2_grpc.BrokerServiceStub(to_broker).Grant(grant)
        task = (
            await governance.CreateTask(
                pb.CreateTaskRequest(
                    request_id="c", id="sum", title="Sum up", task_type=pb.TASK_TYPE_FEATURE, description=WORK,
                    assigned_group="developer", gate=pb.GATE_SECURITY,
                )
            )
        ).task  # fmt: skip
        for number, state in enumerate((pb.TASK_STATE_DONE, pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY)):
            move = pb.TransitionTaskRequest(request_id=f"m{number}", task_id="sum", to_state=state, reason=PLANTED)
            if state == pb.TASK_STATE_DONE:
                with pytest.raises(NanoclawError, match="NO_SUCH_EDGE"):
                    await governance.TransitionTask(move)
            else:
                await governance.TransitionTask(move)
        async for row in governance.WatchTasks(pb.WatchTasksRequest(task_id="sum", cursor=pb.Cursor(epoch=1, seq=0))):
            if row.activity.to_state == pb.TASK_STATE_DONE:
                break
        async with connect(SERVICES[3].target(home), token_file=token) as channel:
            dispatches = dispatcher_pb2_grpc.DispatcherServiceStub(channel)
            request = dispatcher.ListDispatchesRequest(states=[dispatcher.DISPATCH_STATE_DONE])
            while len((await dispatches.ListDispatches(request)).dispatches) < 2:  # the last ends after its task
                await asyncio.sleep(0.05)
    return task


def secrets_of(home: Path) -> set[str]:
    """Every credential and key below the home, in the forms in which it might be written."""
    files = [path for path in (home / "secrets").rglob("*") if path.is_file()]
    files += [path for path in home.rglob("ipc_secret") if path.is_file()]
    found: set[str] = set()
    for path in files:
        raw = path.read_bytes()
        if len(raw) >= 16:
            found.add(raw.hex())
        text = raw.decode(errors="replace").strip()
        found |= {part for part in re.split(r"\s+", text) if len(part) >= 16 and "\ufffd" not in part}
    return found


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """The span's attributes, without our prefix."""
    return {tag["key"].removeprefix("nanoclaw."): tag["value"] for tag in span["tags"]}


def links(span: dict[str, Any]) -> list[str]:
    """The spans of its own trace that it links to."""
    own = span["traceID"]
    return [one["spanID"] for one in span["references"] if one["refType"] == "FOLLOWS_FROM" and one["traceID"] == own]


async def test_one_task_is_one_trace_with_its_decisions_and_without_a_secret(
    short_home: Path, environ: dict[str, str], running: Jaeger
) -> None:
    """Four services and the agent under one root; the retry links back; every no says why; the picture can be drawn."""
    environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": running.endpoint, "NANOCLAW_DISPATCHER_BACKOFF_SECONDS": "0.1"}
    async with Supervisor(short_home, [sys.executable], environ).running(), asyncio.timeout(40):
        task = await run(short_home)
        secrets = secrets_of(short_home) | {PLANTED}
    trace = await running.trace(
        task.traceparent.split("-")[1],
        lambda spans: sum(span["operationName"] == "agent.run" for span in spans) == 3,
    )
    spans = trace["spans"]
    services = {span["spanID"]: trace["processes"][span["processID"]]["serviceName"] for span in spans}
    assert set(services.values()) == {
        f"nanoclaw-{name}" for name in ("governance", "dispatcher", "gateway", "broker", "agent")
    }

    known = {span["spanID"] for span in spans}
    above = {span["spanID"]: [r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"] for span in spans}
    (root,) = [span for span in spans if not above[span["spanID"]]]
    assert (root["operationName"], tags(root)["task"]) == ("task.create", "sum")
    assert all(parent in known for parents in above.values() for parent in parents), "no span hangs in the air"
    assert not [span["warnings"] for span in spans if span["warnings"]], "Jaeger finds nothing odd"

    names = {span["operationName"] for span in spans}
    sane = r"(task|dispatch|agent|ipc|broker)\.[a-z_]+|nanoclaw\.(governance|dispatcher|gateway|broker)\.v1\.\w+/\w+"
    assert not [name for name in names if not re.fullmatch(sane, name)], "names are few, and hold no id"
    assert names >= {"task.transition", "task.approve", "dispatch.attempt", "agent.run", "ipc.request", "broker.call"}

    first, second, reviewer = sorted(
        (span for span in spans if span["operationName"] == "dispatch.attempt"), key=lambda span: span["startTime"]
    )
    assert (tags(first)["outcome"], tags(first)["exit_code"], links(first)) == ("EXITED", 1, [])
    assert tags(first)["error"] is True
    assert links(second) == [first["spanID"]]
    assert (tags(second)["retry_of"], tags(second)["reason"]) == (tags(first)["attempt"], "EXITED with 1")
    assert (tags(reviewer)["group"], links(reviewer)) == ("security", [])

    moves = [tags(span) for span in spans if span["operationName"] == "task.transition"]
    moves.sort(key=lambda move: move["version"])
    assert [(m["decision"], m["reason"], m["relation"], m["to"]) for m in moves] == [
        ("deny", "NO_SUCH_EDGE", "admin", "DONE"),
        ("allow", "PERMITTED", "admin", "TRIAGED"),
        ("allow", "PERMITTED", "admin", "READY"),
        ("allow", "PERMITTED", "dispatcher", "DOING"),
        ("allow", "PERMITTED", "assigned_group", "REVIEW"),
        ("allow", "PERMITTED", "dispatcher", "APPROVAL"),
        ("allow", "PERMITTED", "gate_approver", "DONE"),
    ]
    calls = {tags(span)["provider"]: tags(span) for span in spans if span["operationName"] == "broker.call"}
    assert (calls["json"]["decision"], calls["json"]["reason"]) == ("allow", "OK")
    assert (calls["http"]["decision"], calls["http"]["reason"]) == ("deny", "NO_CAPABILITY")
    assert calls["http"]["check"] == "capability"

    everything = running.everything()
    assert task.id in everything
    assert len(secrets) > 5
    assert not [secret for secret in secrets if secret in everything], "no secret, and nothing that somebody wrote"

    picture = ElementTree.fromstring(draw(trace))
    assert sum(1 for _ in picture.iter("{http://www.w3.org/2000/svg}title")) == len(spans)
