"""No secret leaves the broker: everything that a whole system wrote, sent and showed is searched for planted ones."""

import asyncio
import json
import resource
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import mcp_far_side
import pytest
from echoing import Echoing
from echoing_mail import EchoingMail
from planted import ECHOES, found
from planted_home import CONFIG, Planted, tell
from ports import free_ports
from postgres import BIN, postgres

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor, read_state
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Role
from nanoclaw_rpc import Credentials, connect

L2, L3 = pb.ACCESS_LEVEL_L2, pb.ACCESS_LEVEL_L3


def calls(port: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Calls that succeed, fail, are refused, end without a reply: with the secrets told in every way."""
    web = f"http://127.0.0.1:{port}/web"
    say = {"model": "m", "max_tokens": 9}
    for echo in ECHOES:
        asked = urllib.request.quote(echo)  # type: ignore[attr-defined]
        for how in ("text", "json", "header", "binary"):
            yield "http", "get", {"url": f"{web}?echo={asked}&as={how}"}
        for status in (200, 400):
            yield "http", "post", {"url": f"{web}?echo={asked}&status={status}", "body": "x"}
        yield "github", "get_repo", {"repo": f"acme/{echo.replace(' ', '_')}"}
        yield "github", "create_issue", {"repo": f"acme/{echo.replace(' ', '_')}", "title": "t"}
        mail = {"subject": f"take {echo}", "text": "x"}
        yield "email", "send", {**mail, "to": ["a@example.org"]}
        yield "email", "send", {**mail, "to": ["a@example.org"], "subject": f"refuse {echo}"}
        yield "email", "send", {**mail, "to": ["a@example.org", f"{echo.replace(' ', '_')}@refused.test"]}
        for how in ("answer", "failure", "error"):
            yield "mcp", "far_say", {"echo": echo, "how": how}
        yield "sql", "query", {"database": "shop", "sql": "SELECT told($1)", "values": [echo]}
        yield "sql", "query", {"database": "shop", "sql": "SELECT failed($1)", "values": [echo]}
        for words in (echo, f"error {echo}"):
            yield "llm", "messages", {**say, "messages": [{"role": "user", "content": words}]}
        yield "llm", "messages", {**say, "stream": True, "messages": [{"role": "user", "content": echo}]}
    yield "http", "get", {"url": f"{web}?echo=plain&as=hang"}
    yield "http", "post", {"url": f"{web}?echo=plain&status=503"}
    yield "sql", "query", {"database": "gone", "sql": "SELECT 1"}
    yield "mcp", "child_environment", {}
    yield "http", "get", {"url": "http://127.0.0.1:1/"}
    yield "json", "transform", {}


@pytest.fixture
def planted(short_home: Path) -> Planted:
    return Planted(short_home)


@pytest.fixture
def shop(planted: Planted) -> Iterator[str]:
    """A database whose password is the planted one, and which tells it, and all others; its URL."""
    if BIN is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres(planted.held("sql_shop_password")) as url:
        yield url


@pytest.fixture
def settings(environ: dict[str, str], collector: Any) -> dict[str, str]:
    """Traces to us, metrics on, limits out of the way."""
    kinds = [f"{kind}_L{level}" for kind in ("RATE", "SOFT", "HARD") for level in (1, 2)]
    limits = {f"NANOCLAW_BROKER_{kind}": "9999" for kind in (*kinds, "RELAY_RATE", "RELAY_SOFT", "RELAY_HARD")}
    found = environ | collector.environ | limits | {"NANOCLAW_BROKER_CALL_SECONDS": "2"}
    metrics = zip(SERVICES, free_ports(len(SERVICES)), strict=True)
    return found | {f"{service.prefix}METRICS": f"127.0.0.1:{port}" for service, port in metrics}


@pytest.mark.system
@pytest.mark.timeout(120)
async def test_no_planted_secret_is_in_anything_that_a_system_wrote_or_showed(
    planted: Planted, shop: str, settings: dict[str, str], collector: Any, tmp_path: Path
) -> None:
    """Database and its WAL, logs, files of agents, spans, metrics, answers, errors, what /proc shows of processes."""
    home = planted.home
    far_side = Echoing(planted.given_away)
    mail = EchoingMail(far_side.said)
    await tell(planted, shop, far_side.said)
    async with far_side.serving() as port, mail.serving() as mail_port:
        child = ", ".join(map(json.dumps, (sys.executable, mcp_far_side.__file__, str(tmp_path))))
        (home / "config").mkdir()
        (home / "config" / "providers.toml").write_text(
            CONFIG.format(port=port, mail=mail_port, database=shop, child=child)
        )
        settings["NANOCLAW_BROKER_HTTP_ALLOW"] = f"127.0.0.1:{port},127.0.0.1:1"
        async with Supervisor(home, [sys.executable], settings).running():
            codes = await _use(planted, port)
            far_side.on_request = planted.look_at_processes
            await _work(planted, port)
            far_side.on_request = lambda: None
            async with _waiting(planted, port) as attempt:
                await _think(planted, attempt)
                for service in SERVICES:
                    url = f"http://{settings[f'{service.prefix}METRICS']}/metrics"
                    with urllib.request.urlopen(url) as page:
                        planted.seen[url] = page.read().decode()
                planted.look_at_processes()
                planted.look_at_files("while it runs")
            limits = Path(f"/proc/{read_state(home)['broker'][0]}/limits").read_text()
    planted.look_at_files("after its end")
    planted.seen["spans"] = str(collector.spans)
    assert codes >= {
        "OK", "HTTP_REFUSED", "GITHUB_REFUSED", "LLM_KEY_REFUSED", "NO_REPLY", "EFFECT_UNKNOWN", "NO_CAPABILITY",
        "DATABASE_UNREACHABLE", "CONNECTION_FAILED", "EMAIL_REFUSED", "EMAIL_RECIPIENT_REFUSED", "MCP_TOOL_FAILED",
        "MCP_REFUSED", "SQL_REFUSED",
    }  # fmt: skip
    brought = {planted.held(name) for name in ("github_token", "llm_api_key", "host_token", "mcp_token")}
    assert far_side.credentials >= brought
    assert mail.credentials == {planted.held("email_password")}
    assert any("nanoclaw_agent" in text for where, text in planted.seen.items() if where.endswith("cmdline"))
    assert any(name.endswith(".ipc_secret") for name in planted.secrets)
    assert "broker.call" in planted.seen["spans"]
    assert "[scrubbed]" in "".join(text for where, text in planted.seen.items() if "nanoclaw.db" in where)
    given_to_child = {
        where for where in planted.seen if where.endswith("environ") and "CHILD_TOKEN=" in planted.seen[where]
    }
    assert len(given_to_child) == 1
    assert set(found(planted.secrets, planted.seen)) == {f"secrets/broker/child_token in {min(given_to_child)}"}
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]


async def _use(planted: Planted, port: int) -> set[str]:
    """Every call by an operator, and everything that can be asked about them; answers the codes."""
    codes = set()
    async with connect(SERVICES[1].target(planted.home), token_file=planted.founder) as channel:
        broker = broker_pb2_grpc.BrokerServiceStub(channel)
        for group in ("operator:founder", "developer"):
            for provider in ("http", "github", "llm", "sql", "email", "mcp"):
                grant = pb.GrantRequest(group=group, provider=provider, access_level=L2)
                grant.request_id = f"{group} {provider}".replace(" ", "-").replace(":", "-")
                grant.allow_unverified = provider == "email"
                if (group, provider) == ("developer", "http"):
                    grant.access_level = L3
                await broker.Grant(grant)
        for number, (provider, action, params) in enumerate(calls(port)):
            request = pb.CallRequest(
                request_id=f"c{number}", provider=provider, action=action, params_json=json.dumps(params)
            )
            answer = planted.keep("Call", await broker.Call(request, timeout=10))
            codes.add(answer.code)
            planted.keep("GetCall", await broker.GetCall(pb.GetCallRequest(call_id=answer.call_id)))
        planted.keep("ListCalls", await broker.ListCalls(pb.ListCallsRequest(page_size=500)))
        planted.keep("ListProviders", await broker.ListProviders(pb.ListProvidersRequest()))
        planted.keep("GetStatus", await broker.GetStatus(pb.GetStatusRequest()))
        planted.keep("ExplainCall", await broker.ExplainCall(pb.ExplainCallRequest(provider="http", action="get")))
        with pytest.raises(NanoclawError) as refused:
            await broker.GetCall(pb.GetCallRequest(call_id="none"))
        planted.seen["an error"] = str(refused.value)
    return codes


async def _work(planted: Planted, port: int) -> None:
    """A task of an agent in its mailbox, whose call brings the secrets back."""
    web = f"http://127.0.0.1:{port}/web?echo=plain&as=json"
    plan = f'do: call http get {{"url": "{web}"}} -> got.json\ndo: try call http post {{"url": "{web}&status=400"}}'
    async with connect(SERVICES[0].target(planted.home), token_file=planted.founder) as channel:
        governance = governance_pb2_grpc.GovernanceServiceStub(channel)
        head = (await governance.GetStatus(gov.GetStatusRequest())).head
        watch = governance.WatchTasks(gov.WatchTasksRequest(cursor=head))
        await _make_ready(governance, "t1", plan, gate=gov.GATE_SECURITY, task_type=gov.TASK_TYPE_SECURITY)
        async for row in watch:
            planted.keep("WatchTasks", row)
            assert row.activity.to_state != gov.TASK_STATE_BLOCKED, row.activity.reason
            if row.activity.to_state == gov.TASK_STATE_DONE:
                break
        planted.keep("GetTask", await governance.GetTask(gov.GetTaskRequest(task_id="t1")))


@asynccontextmanager
async def _waiting(planted: Planted, port: int) -> AsyncIterator[str]:
    """A call of L3 waits for votes, with its parameters kept; afterwards two are cast. Answers whose call it is."""
    plan = f'do: try call http post {{"url": "http://localhost:{port}/web?echo=plain&status=400"}}'
    async with (
        connect(SERVICES[0].target(planted.home), token_file=planted.founder) as to_governance,
        connect(SERVICES[1].target(planted.home), token_file=planted.founder) as to_broker,
    ):
        governance = governance_pb2_grpc.GovernanceServiceStub(to_governance)
        await _make_ready(governance, "t2", plan, task_type=gov.TASK_TYPE_OPS, gate=gov.GATE_NONE)
        broker = broker_pb2_grpc.BrokerServiceStub(to_broker)
        async with asyncio.timeout(20):
            while not (pending := await broker.ListPendingCalls(pb.ListPendingCallsRequest())).calls:
                await asyncio.sleep(0.05)
        planted.keep("ListPendingCalls", pending)
        one = pending.calls[0]
        yield one.call.attempt_id
        ann = Credentials.open(planted.home / "secrets").add_operator("ann", Role.APPROVER)
        for token in (planted.founder, ann):
            async with connect(SERVICES[1].target(planted.home), token_file=token) as channel:
                vote = pb.ApproveCallRequest(call_id=one.call.call_id, params_digest=one.params_digest)
                vote.request_id = f"vote-{token.stem}"
                answer = await broker_pb2_grpc.BrokerServiceStub(channel).ApproveCall(vote, timeout=20)
                planted.keep("ApproveCall", answer)
        assert answer.outcome.code == "HTTP_REFUSED", answer


async def _think(planted: Planted, attempt: str) -> None:
    """Through the model relay of an attempt: answers, refusals and streams with the secrets in them."""
    token = Credentials.open(planted.home / "secrets").token_file("service:dispatcher")
    async with connect(SERVICES[1].target(planted.home), token_file=token) as channel:
        relay = pb.OpenRelayRequest(request_id="relay", attempt_id=attempt, group="developer", task_id="t2")
        folder = (await broker_pb2_grpc.BrokerServiceStub(channel).OpenRelay(relay)).path
    transport = httpx.AsyncHTTPTransport(uds=f"{folder}/llm.sock")
    statuses = set()
    async with httpx.AsyncClient(transport=transport, base_url="http://relay", timeout=10) as agent:
        for echo in ECHOES:
            for words, stream in ((echo, False), (f"error {echo}", False), (echo, True)):
                body = {
                    "model": "m",
                    "max_tokens": 9,
                    "stream": stream,
                    "messages": [{"role": "user", "content": words}],
                }
                answer = await agent.post("/v1/messages", json=body)
                statuses.add(answer.status_code)
                planted.seen[f"relay, {words}, {stream}"] = f"{answer.headers}\n{_spoken(answer.text)}\n{answer.text}"
    assert statuses == {200, 500}, statuses


def _spoken(events: str) -> str:
    """The text of a stream's deltas, put together."""
    data = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    return "".join(one["delta"].get("text", "") for one in data if one["type"] == "content_block_delta")


async def _make_ready(governance: Any, id: str, plan: str, **fields: Any) -> None:
    task = gov.CreateTaskRequest(
        request_id=id, id=id, title="x", description=plan, assigned_group="developer", **fields
    )
    await governance.CreateTask(task)
    for state in (gov.TASK_STATE_TRIAGED, gov.TASK_STATE_READY):
        await governance.TransitionTask(
            gov.TransitionTaskRequest(request_id=f"{id}{state}", task_id=id, to_state=state)
        )


def test_a_broker_that_is_killed_by_a_fault_leaves_no_core() -> None:
    """Whatever limit it was started with, and wherever the machine sends dumps."""
    program = (
        "import ctypes, os, resource; from nanoclaw_broker.memory import withhold; withhold();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"
    )
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (most, most)),
    )
    assert ran.stdout.split() == ["0", "0", "0"]
