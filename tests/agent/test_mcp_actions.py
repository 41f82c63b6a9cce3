"""The MCP server's tools for actions: what the snapshot offers now, told when it changes, called like any other."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mcp import ClientSession, StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw_agent.client import Client as FileClient
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.mailbox import Mailbox
from nanoclaw_agent.mcp_server import build
from nanoclaw_ipc_gateway import views

SCHEMA = {
    "type": "object",
    "properties": {"repo": {"$ref": "#/$defs/Repo"}, "title": {"type": "string"}},
    "required": ["repo", "title"],
    "$defs": {"Repo": {"type": "string", "pattern": "^[a-z]+/[a-z]+$"}},
}
PURE, READ, MUTATING = broker.ACTION_KIND_PURE, broker.ACTION_KIND_READ, broker.ACTION_KIND_MUTATING
L1, L2, L3 = broker.ACCESS_LEVEL_L1, broker.ACCESS_LEVEL_L2, broker.ACCESS_LEVEL_L3
Notices = asyncio.Queue[str]


def action(name: str, level: Any = L1, kind: Any = READ, schema: Any = SCHEMA, **fields: Any) -> broker.ActionStatus:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    said = {"status": "available", "least_level": level, "description": f"does {name}"} | fields
    return broker.ActionStatus(name=name, level=level, kind=kind, params_schema_json=text, **said)


def grant(*actions: broker.ActionStatus, provider: str = "github", ends_in: float = 0, **fields: Any) -> Any:
    ends = Timestamp()
    ends.FromNanoseconds(time.time_ns() + int(ends_in * 1e9))
    capability = broker.Capability(group="developer", provider=provider, active=True, **fields)
    if ends_in:
        capability.expires_at.CopyFrom(ends)
    return broker.GroupCapability(capability=capability, actions=actions)


def show(ipc: Path, *grants: Any) -> None:
    """The snapshot, written as the gateway writes it."""
    content = views.capabilities([views.capability(one) for one in grants], ["github", "json"], "2026-11-21T00:00:00Z")
    put(ipc, content)


def put(ipc: Path, content: bytes) -> None:
    """All at once."""
    (ipc / "made.tmp").write_bytes(content)
    (ipc / "made.tmp").rename(ipc / "ext_capabilities.json")


def started(ipc: Path) -> Any:
    """The real server, as a coding agent starts it."""
    environ = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | Environment(str(ipc), group="developer").variables()
    return stdio_client(
        StdioServerParameters(command=sys.executable, args=["-m", "nanoclaw_agent.mcp_server"], env=environ)
    )


async def heard(notices: Notices, message: Any) -> None:
    """A notice of a client of today."""
    if isinstance(message, types.ToolListChangedNotification):
        notices.put_nowait("changed")


def in_process(ipc: Path, notices: Notices | None = None) -> Client:
    """The same server in this process, with a client of today."""
    server = build(FileClient(Environment(str(ipc), group="developer")))
    return Client(server, mode="legacy", message_handler=partial(heard, notices or asyncio.Queue()))


@asynccontextmanager
async def by_handshake(ipc: Path, notices: Notices) -> AsyncIterator[ClientSession]:
    """A client of today: it shakes hands, and is told of changes by itself."""
    async with (
        started(ipc) as (read, write),
        ClientSession(read, write, message_handler=partial(heard, notices)) as session,
    ):
        greeting = await session.initialize()
        assert greeting.capabilities.tools is not None
        assert greeting.capabilities.tools.list_changed
        yield session


@asynccontextmanager
async def by_envelope(ipc: Path, notices: Notices) -> AsyncIterator[Client]:
    """A client of the 2026 protocol: no handshake, and a stream that it asks for changes on."""

    async def listen(client: Client) -> None:
        async with client.listen(tools_list_changed=True) as changes:
            listening.set()
            async for _ in changes:
                notices.put_nowait("changed")

    listening = asyncio.Event()
    async with Client(started(ipc), mode="2026-07-28") as client:
        hearing = asyncio.create_task(listen(client))
        await listening.wait()
        yield client
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


Session = Callable[[Path, Notices], Any]
ERAS = pytest.mark.parametrize("session", [by_handshake, by_envelope])


async def tools(mcp: Any) -> dict[str, types.Tool]:
    """Those for actions, and the one that calls any."""
    listed = (await mcp.list_tools()).tools
    return {tool.name: tool for tool in listed if tool.name == "ext_call" or tool.meta}


async def told(notices: Notices) -> float:
    """Waits for a notice, and takes those that came with it; answers how many seconds it took."""
    began = time.monotonic()
    async with asyncio.timeout(10):
        await notices.get()
    while not notices.empty():
        notices.get_nowait()
    return time.monotonic() - began


@ERAS
async def test_a_tool_for_each_action_comes_and_goes_with_its_grant(ipc: Path, session: Session) -> None:
    """Clients are told, in both eras of the protocol, within about a second; what they list is the snapshot."""
    notices: Notices = asyncio.Queue()
    async with session(ipc, notices) as mcp:
        assert await tools(mcp) == {}
        show(ipc, grant(action("create_issue", L2, MUTATING), action("merge", L3, status="requires_higher_level")))
        took = [await told(notices)]
        assert set(await tools(mcp)) == {"ext_call", "ext_github_create_issue"}
        show(ipc, grant(action("create_issue", L2, MUTATING), action("merge", L3, MUTATING)))
        took.append(await told(notices))
        assert set(await tools(mcp)) == {"ext_call", "ext_github_create_issue", "ext_github_merge"}
        show(ipc, grant(action("create_issue", L2, MUTATING, status="DENIED")))
        assert await tools(mcp) == {}  # at once, whether told or not
        took.append(await told(notices))
        assert min(took) < 1  # any of them, for a busy machine may hold up another
        show(ipc)
        show(ipc, grant(action("look"), ends_in=0.8))
        await told(notices)
        assert set(await tools(mcp)) == {"ext_call", "ext_github_look"}
        await told(notices)  # it has ended, and nobody has written the snapshot anew
        assert await tools(mcp) == {}


async def test_a_snapshot_that_says_the_same_tells_nobody(ipc: Path) -> None:
    """It is written anew for whatever concerns the group; only a change of what may be called is news."""
    looks = 0

    def now_ns() -> int:
        nonlocal looks
        looks += 1
        return time.time_ns()

    async def looked_at() -> None:
        async with asyncio.timeout(10):
            before = looks
            while looks < before + 2:  # one may have been under way
                await asyncio.sleep(0.01)

    notices: Notices = asyncio.Queue()
    environment = Environment(str(ipc), group="developer")
    server = build(FileClient(environment, Mailbox(str(ipc), now_ns=now_ns)))
    async with Client(server, mode="legacy", message_handler=partial(heard, notices)):
        show(ipc, grant(action("look")))
        await told(notices)
        for ends_in in (100, 200):
            show(ipc, grant(action("look"), ends_in=ends_in))
            await looked_at()
        assert notices.empty()


async def test_a_tool_says_what_a_model_must_know(ipc: Path) -> None:
    """The action's words and level, its schema with definitions at the root, hints, and the answer's schema."""
    show(
        ipc,
        grant(action("create_issue", L2, MUTATING), action("list", L1, READ), product_id="p1"),
        grant(action("merge", L3, MUTATING), action("post", L3, MUTATING, least_level=L2)),
        grant(action("transform", L1, PURE), provider="json"),
    )
    async with in_process(ipc) as mcp:
        listed = await tools(mcp)
    create, merge, transform = (
        listed[f"ext_{name}"] for name in ("github_create_issue", "github_merge", "json_transform")
    )
    assert create.input_schema["$defs"] == SCHEMA["$defs"]
    assert create.input_schema["properties"]["params"] == {k: v for k, v in SCHEMA.items() if k != "$defs"}
    assert set(create.input_schema["properties"]) == {"params", "task_id", "idempotency_key"}
    assert create.input_schema["required"] == ["params", "task_id"]
    assert transform.input_schema["required"] == ["params"]
    assert str(create.description).startswith("does create_issue\n\n")
    assert "L2, writing" in str(create.description)
    assert "Only for a task of product p1" in str(create.description)
    assert "APPROVAL_PENDING" not in str(create.description)
    assert "APPROVAL_PENDING" in str(merge.description)
    assert "L2, writing, or L3" in str(listed["ext_github_post"].description)
    hints = {
        name: (one.annotations.read_only_hint, one.annotations.destructive_hint, one.annotations.idempotent_hint)
        for name, one in listed.items()
        if one.annotations
    }
    assert hints == {
        "ext_github_create_issue": (False, None, None),
        "ext_github_merge": (False, True, None),
        "ext_github_post": (False, True, None),
        "ext_github_list": (True, False, True),
        "ext_json_transform": (True, False, True),
    }
    assert create.meta == {"nanoclaw/provider": "github", "nanoclaw/action": "create_issue", "nanoclaw/level": 2}
    assert all(tool.output_schema == listed["ext_call"].output_schema for tool in listed.values())
    properties = listed["ext_call"].input_schema["properties"]
    assert properties["provider"]["enum"] == ["github", "json"]
    assert properties["action"]["enum"] == ["create_issue", "list", "merge", "post", "transform"]


async def test_a_call_by_its_tool_is_an_ext_call(ipc: Path, host: Any) -> None:
    """Signed, with the members that it has; parameters as a text, as some clients send them, are taken too."""
    show(ipc, grant(action("create_issue", L2, MUTATING), provider="github"))
    host.answer = lambda request: {"status": "executed", "code": "OK", "data": {"number": 7}}
    params = {"repo": "a/b", "title": "t"}
    async with in_process(ipc) as mcp:
        done = await mcp.call_tool(
            "ext_github_create_issue", {"params": params, "task_id": "t1", "idempotency_key": "k"}
        )
        await mcp.call_tool("ext_github_create_issue", {"params": json.dumps(params)})
    assert (done.is_error, done.structured_content["status"], done.structured_content["data"]) == (
        False, "executed", {"number": 7},
    )  # fmt: skip
    first, second = host.requests
    assert (first["type"], first["provider"], first["action"]) == ("ext_call", "github", "create_issue")
    assert (first["params"], first["task_id"], first["idempotency_key"]) == (params, "t1", "k")
    assert first["sig"]
    assert (second["params"], "task_id" in second) == (params, False)


async def test_a_tool_that_is_listed_no_more_is_asked_for_all_the_same(ipc: Path, host: Any) -> None:
    """The broker says why not, by names with a digest too; a name that never was one is an error."""
    show(ipc, grant(action("look"), provider="github"), grant(action("x" * 60), provider="json"))
    denial = {"status": "denied", "code": "NO_CAPABILITY", "error": "no grant", "next_steps": ["ask main"]}
    host.answer = lambda request: denial
    async with in_process(ipc) as mcp:
        shortened = next(name for name in await tools(mcp) if "-" in name)
        show(ipc)
        assert await tools(mcp) == {}
        for name in ("ext_github_look", shortened, "ext_never_granted", "ext_call"):
            named = {"provider": "github", "action": "look"} if name == "ext_call" else {}
            answer = await mcp.call_tool(name, {"params": {}, **named})
            assert not answer.is_error
            assert (answer.structured_content["code"], answer.structured_content["next_steps"]) == (
                "NO_CAPABILITY", ["ask main"],
            )  # fmt: skip
        asked = [(request["provider"], request["action"]) for request in host.requests]
        assert asked == [("github", "look"), ("json", "x" * 60), ("never", "granted"), ("github", "look")]
        assert (await mcp.call_tool("ext_no-such-name", {"params": {}})).is_error
        assert (await mcp.call_tool("launch", {})).is_error
    assert len(host.requests) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"title": "t", "repo": "a/b"}, "not repo, title: what the action takes goes into params"),
        ({}, "lacks params"),
        ({"params": 1}, "params"),
        ({"params": {}, "task_id": 1}, "task_id"),
        ({"params": {}, "provider": "json"}, "not provider"),
    ],
)
async def test_arguments_that_are_not_the_tools_write_nothing(
    ipc: Path, host: Any, arguments: dict[str, Any], words: str
) -> None:
    """The model is told which; what is inside params the broker judges."""
    show(ipc, grant(action("look")))
    async with in_process(ipc) as mcp:
        answer = await mcp.call_tool("ext_github_look", arguments)
    assert answer.is_error
    assert words in answer.content[0].text
    assert host.requests == []


async def test_schemas_are_shown_for_the_provider_that_is_asked_for(ipc: Path) -> None:
    """For clients that do not list again; without one, ext_capabilities is short."""
    show(ipc, grant(action("look")), grant(action("transform"), provider="json"))
    async with in_process(ipc) as mcp:
        briefly = await mcp.call_tool("ext_capabilities", {})
        whole = await mcp.call_tool("ext_capabilities", {"provider": "json"})
    brief, one = (answer.structured_content["data"]["capabilities"] for answer in (briefly, whole))
    assert [next(iter(grant["actions"].values())).get("params_schema") for grant in brief] == [None, None]
    ((_, transform),) = one[0]["actions"].items()
    assert (len(one), transform["params_schema"]) == (1, SCHEMA)


async def _half(ipc: Path) -> None:
    (ipc / "ext_capabilities.json").write_text('{"capabilities": [{"provi')


async def _gone(ipc: Path) -> None:
    (ipc / "ext_capabilities.json").unlink()


async def _folder(ipc: Path) -> None:
    await _gone(ipc)
    (ipc / "ext_capabilities.json").mkdir()


async def _deep(ipc: Path) -> None:
    put(ipc, b'{"capabilities":' + b"[" * 100_000)


async def _half_a_pair(ipc: Path) -> None:
    show(ipc, grant(action("look", description="does look")))
    put(ipc, (ipc / "ext_capabilities.json").read_bytes().replace(b"does look", b"\\ud800"))


@pytest.mark.parametrize("spoil", [_half, _gone, _folder, _deep, _half_a_pair])
async def test_a_snapshot_that_can_not_be_read_offers_nothing_until_it_can(
    ipc: Path, spoil: Callable[[Path], Awaitable[None]]
) -> None:
    """The other tools stay, the server lives, and the next snapshot counts."""
    show(ipc, grant(action("look")))
    notices: Notices = asyncio.Queue()
    async with in_process(ipc, notices) as mcp:
        await spoil(ipc)
        await told(notices)
        assert await tools(mcp) == {}
        assert "gov_transition" in {tool.name for tool in (await mcp.list_tools()).tools}
        if (ipc / "ext_capabilities.json").is_dir():
            (ipc / "ext_capabilities.json").rmdir()
        show(ipc, grant(action("look")))
        await told(notices)
        assert set(await tools(mcp)) == {"ext_call", "ext_github_look"}


async def test_thousands_of_actions_and_a_bad_schema_are_listed(ipc: Path) -> None:
    """Each has its tool, the one whose schema is none takes any params, and the server answers others meanwhile."""
    many = [action(f"look_{number}") for number in range(1500)]
    show(ipc, grant(*many, action("odd", schema='{"type": "nonsense"}')))
    async with in_process(ipc) as mcp:
        listed = await tools(mcp)
        message = await mcp.call_tool("send_message", {"text": "still here"})
    assert len(listed) == 1502
    assert listed["ext_github_odd"].input_schema["properties"]["params"] == {"type": "object"}
    assert message.structured_content["status"] == "executed"
