"""No secret leaves the broker: everything that a whole system wrote, sent and showed is searched for planted ones."""

import resource
import secrets as random
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from echoing import Echoing
from planted import ECHOES, found

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor, read_state
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import Credentials, connect

NAMES = ("github_token", "llm_api_key", "host_token", "sql_shop_password", "email_password", "mcp_token")
CONFIG = """
[github]
base_url = "http://127.0.0.1:{port}"
repos = ["acme/*"]
[llm]
base_url = "http://127.0.0.1:{port}"
[llm.models.m]
input = 1.0
output = 1.0
[http.write."127.0.0.1:{port}"]
idempotency_key = true
bearer_secret = "host_token"
[sql.databases.shop]
url = "postgresql://me@127.0.0.1:9/shop"
"""
L2 = pb.ACCESS_LEVEL_L2


class Planted:
    """A home with secrets in every file of the broker's, and all that was seen of what runs over it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.seen: dict[str, str] = {}
        Credentials.open(home / "secrets")
        (home / "secrets" / "broker").mkdir()
        for name in NAMES:
            path = home / "secrets" / "broker" / name
            path.touch(mode=0o600)
            path.write_text(f'pl4nted/{name}+"{random.token_hex(12)}"==')

    @property
    def secrets(self) -> dict[str, str]:
        """All that nobody may see, by the file that holds it."""
        folder = self.home / "secrets"
        files = [*folder.rglob("*.token"), folder / "broker.key", *(folder / "broker").iterdir()]
        files += [path for path in self.home.rglob(".ipc_secret") if path.is_file()]
        return {str(path.relative_to(self.home)): path.read_text().strip() for path in files if path.exists()}

    @property
    def given_away(self) -> list[str]:
        """Those that the broker has to keep out of answers: its own."""
        return [(self.home / "secrets" / "broker" / name).read_text() for name in NAMES]

    def look_at_processes(self) -> None:
        """Environment and arguments of whatever runs now, the agents too."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                for name in ("environ", "cmdline"):
                    with suppress(OSError):
                        self.seen[f"{folder}/{name}"] = (folder / name).read_bytes().decode(errors="replace")

    def look_at_files(self, when: str) -> None:
        """All but the secrets' own."""
        for path in self.home.rglob("*"):
            own = "secrets" in path.relative_to(self.home).parts or path.name == ".ipc_secret"
            if path.is_file() and not path.is_symlink() and not own:
                with suppress(FileNotFoundError):  # the services are still at work
                    self.seen[f"{path}, {when}"] = path.read_bytes().decode(errors="replace")

    def keep(self, name: str, message: Any) -> Any:
        """An answer of a service."""
        self.seen[f"{name} {len(self.seen)}"] = message.SerializeToString().decode(errors="replace")
        return message


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
        for words in (echo, f"error {echo}"):
            yield "llm", "messages", {**say, "messages": [{"role": "user", "content": words}]}
        yield "llm", "messages", {**say, "stream": True, "messages": [{"role": "user", "content": echo}]}
    yield "http", "get", {"url": f"{web}?echo=plain&as=hang"}
    yield "http", "post", {"url": f"{web}?echo=plain&status=503"}
    yield "sql", "query", {"database": "shop", "sql": "SELECT 1"}
    yield "http", "get", {"url": "http://127.0.0.1:1/"}
    yield "json", "transform", {}


@pytest.fixture
def settings(environ: dict[str, str], collector: Any) -> dict[str, str]:
    """Traces to us, metrics on, limits out of the way."""
    limits = {f"NANOCLAW_BROKER_{kind}_L{level}": "9999" for kind in ("RATE", "SOFT", "HARD") for level in (1, 2)}
    found = environ | collector.environ | limits | {"NANOCLAW_BROKER_CALL_SECONDS": "2"}
    with ExitStack() as taken:
        for service in SERVICES:
            one = taken.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            found[f"{service.prefix}METRICS"] = f"127.0.0.1:{one.getsockname()[1]}"
    return found


@pytest.mark.system
@pytest.mark.timeout(120)
async def test_no_planted_secret_is_in_anything_that_a_system_wrote_or_showed(
    short_home: Path, settings: dict[str, str], collector: Any
) -> None:
    """Database and its WAL, logs, files of agents, spans, metrics, answers, errors, what /proc shows of processes."""
    planted = Planted(short_home)
    far_side = Echoing(planted.given_away)
    async with far_side.serving() as port:
        (short_home / "config").mkdir()
        (short_home / "config" / "providers.toml").write_text(CONFIG.format(port=port))
        settings["NANOCLAW_BROKER_HTTP_ALLOW"] = f"127.0.0.1:{port},127.0.0.1:1"
        async with Supervisor(short_home, [sys.executable], settings).running():
            codes = await _use(planted, port)
            far_side.on_request = planted.look_at_processes
            await _work(planted, port)
            for service in SERVICES:
                url = f"http://{settings[f'{service.prefix}METRICS']}/metrics"
                with urllib.request.urlopen(url) as page:
                    planted.seen[url] = page.read().decode()
            planted.look_at_files("while it runs")
            limits = Path(f"/proc/{read_state(short_home)['broker'][0]}/limits").read_text()
    planted.look_at_files("after its end")
    planted.seen["spans"] = str(collector.spans)
    assert codes >= {
        "OK", "HTTP_REFUSED", "GITHUB_REFUSED", "LLM_KEY_REFUSED", "NO_REPLY", "EFFECT_UNKNOWN", "NO_CAPABILITY",
        "DATABASE_UNREACHABLE", "CONNECTION_FAILED",
    }  # fmt: skip
    assert far_side.credentials >= set(planted.given_away[:3])
    assert any("nanoclaw_agent" in text for where, text in planted.seen.items() if where.endswith("cmdline"))
    assert any(name.endswith(".ipc_secret") for name in planted.secrets)
    assert "broker.call" in planted.seen["spans"]
    assert "[scrubbed]" in "".join(text for where, text in planted.seen.items() if "nanoclaw.db" in where)
    assert found(planted.secrets, planted.seen) == []
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]


async def _use(planted: Planted, port: int) -> set[str]:
    """Every call by an operator, and everything that can be asked about them; answers the codes."""
    token = planted.home / "secrets" / "operators" / "founder.token"
    codes = set()
    async with connect(SERVICES[1].target(planted.home), token_file=token) as channel:
        broker = broker_pb2_grpc.BrokerServiceStub(channel)
        for group in ("operator:founder", "developer"):
            for provider in ("http", "github", "llm", "sql"):
                request_id = f"{group} {provider}".replace(" ", "-").replace(":", "-")
                await broker.Grant(
                    pb.GrantRequest(request_id=request_id, group=group, provider=provider, access_level=L2)
                )
        for number, (provider, action, params) in enumerate(calls(port)):
            request = pb.CallRequest(
                request_id=f"c{number}", provider=provider, action=action, params_json=_json(params)
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
    token = planted.home / "secrets" / "operators" / "founder.token"
    async with connect(SERVICES[0].target(planted.home), token_file=token) as channel:
        governance = governance_pb2_grpc.GovernanceServiceStub(channel)
        head = (await governance.GetStatus(gov.GetStatusRequest())).head
        watch = governance.WatchTasks(gov.WatchTasksRequest(cursor=head))
        await governance.CreateTask(
            gov.CreateTaskRequest(
                request_id="t", id="t1", title="x", description=plan, assigned_group="developer",
                gate=gov.GATE_SECURITY, task_type=gov.TASK_TYPE_SECURITY,
            )
        )  # fmt: skip
        for state in (gov.TASK_STATE_TRIAGED, gov.TASK_STATE_READY):
            await governance.TransitionTask(
                gov.TransitionTaskRequest(request_id=f"t{state}", task_id="t1", to_state=state)
            )
        async for row in watch:
            planted.keep("WatchTasks", row)
            assert row.activity.to_state != gov.TASK_STATE_BLOCKED, row.activity.reason
            if row.activity.to_state == gov.TASK_STATE_DONE:
                break
        planted.keep("GetTask", await governance.GetTask(gov.GetTaskRequest(task_id="t1")))


def _json(value: Any) -> str:
    import json

    return json.dumps(value)


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
