"""An SDK in a sandbox without a network asks a model: through the relay, decided, metered, cut off; its key nowhere."""

import asyncio
import json
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from messages_api import KEY, MessagesApi, Reply, assert_key_nowhere
from people import running

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.dispatcher.v1 import dispatcher_pb2
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw.runtime.v1 import runtime_pb2 as rt
from nanoclaw_dispatcher import groups

PYTHON = f"{sys.prefix}/bin/python"

# What a person would write who knows nothing of brokers: the SDK as its documentation has it.
AGENT = """
import json, os, socket, sys
import anthropic
from nanoclaw_agent.client import Client

sys.stdin.readline()
sdk = anthropic.Anthropic(max_retries=0)
ask = {"model": "claude-test", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
found = {"environment": dict(os.environ)}
found["plain"] = sdk.messages.create(**ask).content[0].text
with sdk.messages.stream(**ask) as stream:
    found["streamed"] = "".join(stream.text_stream)
    found["usage"] = stream.get_final_message().usage.output_tokens
found["counted"] = sdk.messages.count_tokens(model=ask["model"], messages=ask["messages"]).input_tokens
found["models"] = [one.id for one in sdk.models.list()]
try:
    sdk.messages.create(**{**ask, "model": "another"})
except anthropic.PermissionDeniedError as error:
    found["refused"] = error.body["error"]["code"]
try:
    with sdk.messages.stream(**{**ask, "max_tokens": 900_000}):
        pass
except anthropic.RateLimitError as error:
    found["too dear"] = error.body["error"]["code"]
try:
    socket.create_connection(("127.0.0.1", PORT), 2)
except OSError as error:
    found["network"] = type(error).__name__
try:
    with sdk.messages.stream(**ask) as stream:
        for text in stream.text_stream:
            open("heard", "a").write(text)
except anthropic.APIError as error:
    found["cut off"] = error.body["error"]["code"]
open("found.json", "w").write(json.dumps(found))
client = Client.from_environment()
client.transition(client.environment.task_id, "REVIEW", "thought about it")
"""


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as server:
        yield server


def configure(home: Path, api: MessagesApi) -> None:
    """What an operator writes: models with their key, and a group that may think."""
    api.configure(home)
    command = [PYTHON, "-m", "nanoclaw_agent", "relay", "--", PYTHON, "/workspace/group/agent.py"]
    text = f"\n[groups.main]\nrole = 'main'\n[groups.developer]\nrole = 'executor'\nrelay = true\ncommand = {command}\n"
    assert groups.parse(text).by_name["developer"].relay
    tomllib.loads(text)
    (home / "config" / "groups.toml").write_text(text)
    folder = home / "groups" / "developer"
    folder.mkdir(parents=True)
    (folder / "agent.py").write_text(AGENT.replace("PORT", api.url.rpartition(":")[2]))


@pytest.mark.system
async def test_an_sdk_thinks_without_a_network(short_home: Path, environ: dict[str, str], api: MessagesApi) -> None:
    """Plain and streamed; refused, too dear and cut off in the SDK's own errors; every request in the ledger."""
    home, go_on = short_home, threading.Event()

    def held(number: int) -> None:
        if number == 1:
            go_on.wait(30)

    configure(home, api)
    api.next(Reply(), Reply(), Reply(texts=("I think.", "never heard"), pause=held))
    async with running(home, environ) as (people, supervisor):
        isolation = (await people.dispatcher.GetStatus(dispatcher_pb2.GetStatusRequest())).isolation
        if isolation != "bubblewrap":
            pytest.skip(f"no sandbox works here: {isolation}")
        grant = pb.GrantRequest(request_id="g", group="developer", provider="llm", access_level=pb.ACCESS_LEVEL_L2)
        await people.broker.Grant(grant)
        await people.ready("t1")
        heard = home / "groups" / "developer" / "heard"
        async with asyncio.timeout(40):
            while not heard.exists() or not heard.read_text():
                await asyncio.sleep(0.02)
        await people.broker.Revoke(pb.RevokeRequest(request_id="r", group="developer", provider="llm"))
        await people.until("t1", gov.TASK_STATE_REVIEW)
        go_on.set()
        found = json.loads((home / "groups" / "developer" / "found.json").read_text())
        environment = found.pop("environment")
        assert found == {
            "plain": "Hello, world",
            "streamed": "Hello, world",
            "usage": 7,
            "counted": 10,
            "models": ["claude-dear", "claude-test"],
            "refused": "MODEL_NOT_ALLOWED",
            "too dear": "BUDGET_EXCEEDED",
            "network": "ConnectionRefusedError",
            "cut off": "NO_CAPABILITY",
        }
        assert heard.read_text() == "I think."
        assert environment["NANOCLAW_RELAY_SOCKET"] == "/workspace/relay/llm.sock"
        listed = (await people.broker.ListCalls(pb.ListCallsRequest(page_size=100, task_id="t1"))).calls
        told = [(one.action, one.code, one.cost_micros) for one in reversed(listed)]
        assert told == [
            ("messages", "OK", 12 * 3 + 7 * 15),
            ("messages", "OK", 12 * 3 + 7 * 15),
            ("count_tokens", "OK", 0),
            ("messages", "MODEL_NOT_ALLOWED", 0),
            ("messages", "BUDGET_EXCEEDED", 0),
            ("messages", "NO_CAPABILITY", 12 * 3 + len("I think.") * 15),
        ]
        assert len({one.attempt_id for one in listed}) == 1
        spent = await people.runtime.GetBudget(rt.GetBudgetRequest(group="developer"))
        assert {line.spent_micros for line in spent.lines if line.group and line.period == rt.BUDGET_PERIOD_DAY} == {
            sum(micros for *_, micros in told)
        }
        assert all(one["x-api-key"] == KEY for one in api.headers)
        (attempt,) = {one.attempt_id for one in listed}
        async with asyncio.timeout(20):
            while (home / "attempts" / attempt / "relay").exists():
                await asyncio.sleep(0.05)
        for process in supervisor._processes.values():
            for name in ("environ", "cmdline"):
                assert KEY.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
    assert KEY not in json.dumps(environment)
    assert_key_nowhere(home)


@pytest.mark.system
async def test_the_reference_agent_thinks_too(short_home: Path, environ: dict[str, str], api: MessagesApi) -> None:
    """Without any SDK, as its plan says."""
    home = short_home
    api.configure(home)
    text = "[groups.main]\nrole = 'main'\n[groups.developer]\nrole = 'executor'\nrelay = true\n"
    (home / "config" / "groups.toml").write_text(text)
    async with running(home, environ) as (people, _):
        grant = pb.GrantRequest(request_id="g", group="developer", provider="llm", access_level=pb.ACCESS_LEVEL_L2)
        await people.broker.Grant(grant)
        await people.ready("t1", "do: think claude-test: Hi -> thought.md")
        task = await people.until("t1", gov.TASK_STATE_REVIEW, gov.TASK_STATE_BLOCKED)
        assert task.state == gov.TASK_STATE_REVIEW, task.state_reason
        assert (home / "groups" / "developer" / "thought.md").read_text() == "Hello, world\n"
    assert_key_nowhere(home)
