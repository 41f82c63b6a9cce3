"""Who thinks in a real container: a program over the relay, and a coding agent's command line with our MCP server."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engines
import pytest
import stack
from messages_api import KEY, MessagesApi, Reply, assert_key_nowhere
from people import People, running

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2 as gov

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # the first build asks registries

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "coding-agent"
NPM = "nanoclaw-npm:bookworm"
"""As deploy/base-image makes it."""
BETAS = re.findall(r"^betas = (\[.*\])", (ROOT / "docs" / "docker.md").read_text(), re.MULTILINE)

# A program that knows of no relay: standard library, the address from the environment, one answer as a stream.
PROGRAM = """
import http.client, json, os, sys, urllib.parse
from nanoclaw_agent.client import Client
from nanoclaw_agent.prompt import Assignment
from nanoclaw_agent.session import Opening

assignment = Assignment.parse(Opening.read(sys.stdin.readline()).prompt)
address = urllib.parse.urlsplit(os.environ["ANTHROPIC_BASE_URL"])
api = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
ask = {"model": "claude-test", "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"}
api.request("POST", "/v1/messages", json.dumps(ask), headers)
said = ""
for line in api.getresponse():
    if line.startswith(b"data: ") and (event := json.loads(line[6:]))["type"] == "content_block_delta":
        said += event["delta"]["text"]
interfaces = [name for name in os.listdir("/sys/class/net") if open(f"/sys/class/net/{name}/carrier").read() == "1\\n"]
Client.from_environment().transition(assignment.task_id, "REVIEW", f"{said}, by {address.hostname} over {interfaces}")
"""


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    """The far side."""
    with MessagesApi() as server:
        yield server


@pytest.fixture
def coding_image() -> str:
    """This tree's agent image with a coding agent's command line, built as docs/docker.md says."""
    engines.require_engine()
    with engines.client() as here:
        if not here.images(NPM):
            pytest.skip(f"there is no image {NPM}: deploy/base-image makes it where npm is")
    name = "nanoclaw-test-coding-agent"
    words = ["--build-arg", f"AGENT_IMAGE={stack.IMAGES[1]}", "--build-arg", f"BUILD_IMAGE={NPM}"]
    with stack.built():
        ran = subprocess.run(["docker", "build", "-q", "-t", name, *words, FOLDER], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return name


class Coder:
    """A model that has the command line write a file, and hand in by our MCP server; one step for each request."""

    def __init__(self, task_id: str) -> None:
        self.steps: list[tuple[str, dict[str, Any]]] = [
            ("Write", {"file_path": "/workspace/group/greet.py", "content": "print('hello')\n"}),
            ("mcp__nanoclaw__gov_transition", {"task_id": task_id, "to_state": "REVIEW", "reason": "it greets now"}),
        ]

    def __call__(self, asked: dict[str, Any]) -> Reply:
        offered = {tool["name"] for tool in asked.get("tools") or ()}
        results = [part for part in _parts(asked) if part.get("type") == "tool_result"]
        if len(results) >= len(self.steps) or self.steps[len(results)][0] not in offered:
            return Reply()
        name, given = self.steps[len(results)]
        use = {"type": "tool_use", "id": f"toolu_{len(results)}", "name": name, "input": given}
        return Reply(blocks=[use], stop_reason="tool_use")


def _parts(asked: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for one in asked["messages"] if isinstance(one["content"], list) for part in one["content"]]


def configure(home: Path, developer: dict[str, str]) -> None:
    """A group that may think; `developer` holds the rest of its settings, as TOML."""
    settings = {"role": "'executor'", "runtime": "'docker'", "relay": "true", **developer}
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (home / "config" / "groups.toml").write_text(
        "\n".join(["[groups.main]", "role = 'main'", "[groups.developer]", *lines, ""])
    )


async def handed_in(people: People) -> gov.Task:
    """A task that the group may think about, once it is worked on."""
    grant = pb.GrantRequest(request_id="g", group="developer", provider="llm", access_level=pb.ACCESS_LEVEL_L2)
    await people.broker.Grant(grant)
    await people.ready("t1", "Write greet.py")
    task = await people.until("t1", gov.TASK_STATE_REVIEW, gov.TASK_STATE_BLOCKED)
    assert task.state == gov.TASK_STATE_REVIEW, task.state_reason
    return task


async def codes(people: People) -> set[tuple[str, str]]:
    """What the ledger has of it."""
    listed = (await people.broker.ListCalls(pb.ListCallsRequest(page_size=100, task_id="t1"))).calls
    return {(one.action, one.code) for one in listed}


async def test_a_container_without_a_network_hears_a_model_as_it_speaks(
    short_home: Path, contained: dict[str, str], api: MessagesApi
) -> None:
    """Any program that takes an address: on its localhost, streamed through the mounted socket, in the ledger."""
    home = short_home
    api.configure(home)
    command = ["python3", "-m", "nanoclaw_agent", "relay", "--", "python3", "think.py"]
    configure(home, {"command": json.dumps(command)})
    folder = home / "groups" / "developer"
    folder.mkdir(parents=True)
    (folder / "think.py").write_text(PROGRAM)
    async with running(home, contained) as (people, _):
        task = await handed_in(people)
        assert task.review_summary == "Hello, world, by 127.0.0.1 over ['lo']"
        assert await codes(people) == {("messages", "OK")}
    assert [one["x-api-key"] for one in api.headers] == [KEY]
    assert_key_nowhere(home)


async def test_a_coding_agent_works_in_a_container(
    short_home: Path, contained: dict[str, str], api: MessagesApi, coding_image: str
) -> None:
    """Its own tools in its group's folder, ours by MCP, its thoughts by the relay; set up as docs/docker.md says."""
    home = short_home
    api.configure(home, betas=ast.literal_eval(BETAS[0]))
    api.thinks = Coder("t1")
    configure(
        home,
        {"image": f"'{coding_image}'", "memory_mb": "2048", "env.CODING_AGENT_ARGUMENTS": "'--model claude-test'"},
    )
    async with running(home, contained) as (people, _):
        assert (await handed_in(people)).review_summary == "it greets now"
        assert await codes(people) == {("messages", "OK")}
    assert (home / "groups" / "developer" / "greet.py").read_text() == "print('hello')\n"
    assert "Write greet.py" in json.dumps(api.requests[0]["messages"])
    assert all(one["x-api-key"] == KEY for one in api.headers)
    assert_key_nowhere(home)
