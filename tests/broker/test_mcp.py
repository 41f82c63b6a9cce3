"""Tools of a real MCP server as actions: at the operator's levels, by the server's schemas, and nothing guessed."""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_bytes
import mcp_far_side
import pytest
from pydantic import SecretStr
from serving import serving
from starlette.responses import PlainTextResponse

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import ActionFailed, Effect, Environment, NoReply, Provider, Refused, Result
from nanoclaw_broker.providers.mcp import provider, schema
from nanoclaw_broker.providers.mcp.cpu_limit import TookTooLong, within
from nanoclaw_broker.providers.mcp.schema import REST_SECONDS, CheckTooSlow, Schema, SchemaRefused
from nanoclaw_broker.providers.mcp.server import Pauses, ToolServer
from nanoclaw_broker.providers.mcp.wire import MOST_ANSWER
from nanoclaw_broker.secrets import SCRUBBED
from nanoclaw_core.errors import NanoclawError

EFFECT = Effect("01CALL", "developer", "t1")
TOKEN = "a-token-that-only-the-broker-has"
READ = {"level": "L1", "kind": "read"}
TOOLS = {
    "note": {"level": "L3", "kind": "mutating", "cost_micros": 7},
    "add": READ,
    "environment": READ,
    "much": READ,
}


class Far:
    """The provider over one server called `far`."""

    def __init__(self, folder: Path, **server: Any) -> None:
        self.folder = folder
        self.config = {"mcp": {"servers": {"far": {"tools": TOOLS, **server}}}}
        self.provider: Provider = provider(Environment(folder, "", lambda name: SecretStr(TOKEN), self.config))

    @property
    def server(self) -> ToolServer:
        server: ToolServer = self.provider.by_name["far_note"].server  # type: ignore[attr-defined]
        return server

    async def call(self, tool: str, **params: Any) -> Result:
        action = self.provider.by_name[f"far_{tool}"]
        given = action.params.model_validate(params)
        action.check(given)
        result: Result = await action.execute(given, EFFECT)
        return result

    @property
    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().split() if path.exists() else []


@asynccontextmanager
async def running(far: Far) -> AsyncIterator[Far]:
    """Connected, or on the way."""
    far.server.pauses = Pauses(0.01, 0.05)
    assert far.provider.start is not None
    assert far.provider.close is not None
    await far.provider.start()
    try:
        yield far
    finally:
        await far.provider.close()


def over_stdio(folder: Path, **more: Any) -> Far:
    return Far(folder, command=[sys.executable, mcp_far_side.__file__, str(folder)], **more)


class Gate:
    """Stands before the application: counts, looks at the token, and fails where a test wants it to."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.tokens: set[str] = set()
        self.fails_after = False
        self.answers, self.status = b"", 400

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.tokens.add(dict(scope["headers"]).get(b"authorization", b"").decode())
        if self.answers:
            await PlainTextResponse(self.answers, self.status, media_type="application/json")(scope, receive, send)
            return

        async def sending(message: Any) -> None:
            if not self.fails_after:
                await send(message)

        await self.app(scope, receive, sending)
        if self.fails_after:
            await PlainTextResponse("lost", 502)(scope, receive, send)


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[tuple[Gate, Far]]:
    """Over HTTP, connected."""
    gate = Gate(mcp_far_side.app(tmp_path))
    async with serving(gate) as port:
        far = Far(tmp_path, url=f"http://127.0.0.1:{port}/mcp", bearer_secret="far_token")
        async with running(far):
            yield gate, far


async def test_over_stdio_tools_answer_and_the_child_gets_no_more_than_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Structured values and texts; its environment is the configured one and no other; its own no is an answer."""
    monkeypatch.setenv("NANOCLAW_PLANTED", "must not get there")
    async with running(over_stdio(tmp_path, environment={"MODE": "quiet"}, secrets={"API_TOKEN": "far_token"})) as far:
        await asyncio.wait_for(far.server.connected.wait(), 30)
        assert (await far.call("add", a=1, b=2)).data == {"text": "3", "structured": {"result": 3}}
        given = (await far.call("environment")).data["structured"]
        assert (given["MODE"], given["API_TOKEN"]) == ("quiet", TOKEN)
        assert not any(name.startswith("NANOCLAW") for name in given)
        assert (await far.call("note", text="hello")).data["text"] == "noted hello"
        with pytest.raises(ActionFailed, match="the pencil broke") as failed:
            await far.call("note", text="fail")
        assert (failed.value.code, failed.value.in_trouble, failed.value.cost_micros) == ("MCP_TOOL_FAILED", False, 7)
    with pytest.raises(ActionFailed) as failed:
        await far.call("add", a=1, b=2)
    assert failed.value.code == "MCP_UNREACHABLE"


async def test_a_server_that_dies_in_a_call_leaves_it_unknown_and_comes_back_with_its_new_schema(
    tmp_path: Path,
) -> None:
    """The note was written; nobody repeats it. While it is down its actions are listed and nothing is sent."""
    async with running(over_stdio(tmp_path)) as far:
        action = far.provider.by_name["far_note"]
        await asyncio.wait_for(far.server.connected.wait(), 30)
        assert '"colour"' not in action.params_schema
        (tmp_path / "strict").touch()
        far.server.connected.clear()
        with pytest.raises(NoReply):
            await far.call("note", text="die")
        with pytest.raises(ActionFailed) as failed:
            await far.call("note", text="later")
        assert (failed.value.code, failed.value.in_trouble) == ("MCP_UNREACHABLE", True)
        await asyncio.wait_for(far.server.connected.wait(), 30)
        assert '"colour"' in action.params_schema
        assert "coloured" in action.description
        with pytest.raises(Refused, match="lacks colour"):
            await far.call("note", text="later")
        assert (await far.call("note", text="later", colour="red")).data["text"] == "noted red later"
    assert far.notes == ["die", "red", "later"]


async def test_over_http_the_secret_goes_along_and_the_schema_is_enforced(gate: tuple[Gate, Far]) -> None:
    """Before anything is sent; the error names what is asked for, and nothing that was given."""
    door, far = gate
    assert (await far.call("add", a=1, b=2)).data["structured"] == {"result": 3}
    assert door.tokens == {f"Bearer {TOKEN}"}
    for params, words in (({"a": 1}, "lacks b"), ({"a": "one-secret-value", "b": 2}, "a: must have type")):
        with pytest.raises(Refused, match=words) as refused:
            await far.call("add", **params)
        assert "one-secret-value" not in refused.value.message


def test_only_listed_tools_are_actions_as_the_operator_says(tmp_path: Path) -> None:
    """What the server says of itself changes neither level nor kind."""
    far = Far(tmp_path, url="https://mcp.example.com/mcp")
    assert set(far.provider.by_name) == {"servers", "far_note", "far_add", "far_environment", "far_much"}
    note, add = far.provider.by_name["far_note"], far.provider.by_name["far_add"]
    assert (note.level, note.kind, note.unknown_ends_by) == (Level.L3, Kind.MUTATING, UnknownEnd.NONE)
    assert (add.level, add.kind) == (Level.L1, Kind.READ)
    given = note.params.model_validate({"text": "hello"})
    assert (note.cost_micros(given), note.circuit(given), note.summary(given)) == (7, "far", "note at far")
    assert note.render(given) == 'note of the MCP server far\n{\n  "text": "hello"\n}'
    assert note.params_schema == '{"type":"object"}'


async def test_a_reply_that_is_lost_leaves_a_write_unknown_and_fails_a_read(gate: tuple[Gate, Far]) -> None:
    """The note was written before the gateway lost the answer."""
    door, far = gate
    door.fails_after = True
    with pytest.raises(NoReply):
        await far.call("note", text="lost")
    assert far.notes == ["lost"]
    with pytest.raises(ActionFailed) as failed:
        await far.call("add", a=1, b=2)
    assert (failed.value.code, failed.value.in_trouble) == ("MCP_REFUSED", True)


async def test_an_answer_that_is_too_large_is_not_read(
    gate: tuple[Gate, Far], caplog: pytest.LogCaptureFixture
) -> None:
    """Of what was written nobody knows, since the answer was cut off; nothing of it gets into a log."""
    door, far = gate
    refusal = {"jsonrpc": "2.0", "id": None, "error": {"code": -32602, "message": "no"}}
    door.answers = json.dumps(refusal).encode()
    with pytest.raises(ActionFailed):
        await far.call("note", text="little")
    door.answers += b" " * MOST_ANSWER
    with pytest.raises(NoReply):
        await far.call("note", text="much")
    assert not [record for record in caplog.records if record.name.startswith(("mcp", "client"))]


async def test_a_line_without_an_end_ends_the_connection(tmp_path: Path) -> None:
    """A child can't fill the memory: what is longer than an answer may be is not kept, and it is started anew."""
    command = [sys.executable, "-I", "-S", mcp_bytes.__file__, str(tmp_path)]
    async with running(Far(tmp_path, command=command)) as far:
        await asyncio.wait_for(far.server.connected.wait(), 30)
        (tmp_path / "reply").write_bytes(b"x" * (3 * MOST_ANSWER))
        far.server.connected.clear()
        with pytest.raises(NoReply):
            await far.call("note", text="x")
        await asyncio.wait_for(far.server.connected.wait(), 30)


async def test_an_answer_that_is_none_stays_out_of_the_log(
    gate: tuple[Gate, Far], caplog: pytest.LogCaptureFixture
) -> None:
    """The client library would log what it can't parse, whatever it holds."""
    door, far = gate
    door.status, door.answers = 200, b'{"planted": "a-secret-of-somebody"}'
    with pytest.raises(NoReply) as lost:
        await far.call("note", text="odd")
    assert "a-secret-of-somebody" not in caplog.text + str(lost.value)


async def test_a_child_that_does_not_go_is_killed_before_the_broker_goes(tmp_path: Path) -> None:
    """However often the keeper of the connection is asked to end meanwhile: nobody would stop it any more."""
    command = [sys.executable, "-I", "-S", mcp_bytes.__file__, str(tmp_path)]
    (tmp_path / "stays").touch()
    async with running(Far(tmp_path, command=command)) as far:
        await asyncio.wait_for(far.server.connected.wait(), 30)
        pid = int((tmp_path / "stays").read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def test_a_server_that_is_down_got_nothing_and_is_found_again(tmp_path: Path) -> None:
    """Actions are listed all the while; a write to what can't be reached is surely not done."""
    async with serving(mcp_far_side.app(tmp_path)) as port:
        far = Far(tmp_path, url=f"http://127.0.0.1:{port}/mcp")
        assert far.provider.start is not None
        far.server.pauses = Pauses(0.01, 0.05)
        await far.provider.start()
        await far.call("note", text="first")
    try:
        with pytest.raises(ActionFailed) as failed:
            await far.call("note", text="second")
        assert (failed.value.code, failed.value.in_trouble) == ("MCP_UNREACHABLE", True)
        assert not far.server.connected.is_set(), "nobody is told that it is there, from that moment on"
        assert '"text"' in far.provider.by_name["far_note"].params_schema
        async with serving(mcp_far_side.app(tmp_path), port):
            await asyncio.wait_for(far.server.connected.wait(), 30)
            listed = await far.provider.by_name["servers"].execute(None, EFFECT)
            assert [(one["name"], one["connected"]) for one in listed.data["servers"]] == [("far", True)]
            await far.call("note", text="third")
    finally:
        assert far.provider.close is not None
        await far.provider.close()
    assert far.notes == ["first", "third"]


async def test_a_server_that_was_never_there_does_not_stop_the_start(tmp_path: Path) -> None:
    """Nor does a command that does not exist; no memory is spent on what has no configuration."""
    async with running(Far(tmp_path, command=["/does/not/exist"])) as far:
        with pytest.raises(ActionFailed, match="FileNotFoundError") as failed:
            await far.call("note", text="x")
        assert failed.value.code == "MCP_UNREACHABLE"
    assert provider(Environment(tmp_path)).start is None


@pytest.mark.parametrize(
    "document",
    [
        {"$ref": "https://evil.test/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"allOf": [{"$dynamicRef": "other.json#x"}]},
        {"type": "nonsense"},
        {"properties": 1},
        {"enum": ["x" * 70_000]},
    ],
)
def test_a_schema_that_can_not_be_enforced_here_is_refused(document: dict[str, Any]) -> None:
    """Nothing is ever fetched."""
    with pytest.raises(SchemaRefused):
        Schema(document).problems({})


def test_a_schema_is_followed_within_itself_and_no_further() -> None:
    """References by # work; one to nowhere, or round and round, is refused when it is met."""
    local = Schema({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}})
    assert local.problems({"a": 1}) == ()
    assert local.problems({"a": "x"}) == ('a: must have type "integer"',)
    for document in ({"$ref": "#/nowhere"}, {"$ref": "#"}):
        with pytest.raises(SchemaRefused):
            Schema(document).problems({"a": 1})


def nested(depth: int) -> dict[str, Any]:
    """An object in an object in an object."""
    return {"a": nested(depth - 1)} if depth else {"a": 1}


TWICE = {"properties": {"a": {"$ref": "#"}}}
SLOW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a pattern": ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 60 + "!"}),
    "a pattern for names": ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 60 + "!": 1}),
    "a pattern that leaves no names": (
        {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {"a" * 60 + "!": 1},
    ),
    "references that double": (
        {
            "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(60)} | {"60": {}},
            "$ref": "#/$defs/0",
        },
        {},
    ),
    "itself twice over": ({"allOf": [TWICE, TWICE]}, nested(60)),
    "things that must differ": (
        {"properties": {"a": {"uniqueItems": True}}},
        {"a": [1, *([n] for n in range(20_000))]},
    ),
    "much that fits": ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1] * 400_000}),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_check_that_takes_too_long_is_broken_off(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is slow about it, and soon: nothing else is served meanwhile."""
    monkeypatch.setattr(schema, "CHECK_SECONDS", 0.05)
    document, params = SLOW[case]
    with pytest.raises(CheckTooSlow):
        Schema(document).problems(params)


def test_a_schema_that_took_too_long_rests() -> None:
    """Else who sends the same again and again would keep the broker busy with it; others by the schema wait, too."""
    now = 100.0
    slow = Schema(*SLOW["a pattern"][:1], monotonic=lambda: now)
    with pytest.raises(CheckTooSlow):
        slow.problems(SLOW["a pattern"][1])
    now += REST_SECONDS - 0.01
    with pytest.raises(CheckTooSlow):
        slow.problems({"a": "a"})
    now += 0.02
    assert slow.problems({"a": "a"}) == ()
    assert slow.problems({"a": "b"}) == ('a: must have pattern "^(a+)+$"',)


def test_a_schema_that_takes_too_long_to_look_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once and for all; the largest that is taken does not."""
    large = {"properties": {f"member{number}": {"type": "string"} for number in range(1900)}}
    assert len(json.dumps(large)) > 60_000
    assert Schema(large).problems({}) == ()
    monkeypatch.setattr(schema, "SCHEMA_SECONDS", 0.001)
    refused = Schema(large)
    for _ in range(2):
        with pytest.raises(SchemaRefused, match="too long"):
            refused.problems({})
        monkeypatch.undo()


def test_what_is_limited_answers_in_time_or_not_at_all() -> None:
    """And what comes after it is not broken off."""
    assert within(0.05, lambda: 1) == 1
    with pytest.raises(TookTooLong):
        within(0.01, lambda: all(True for _ in itertools.count()))
    with pytest.raises(ZeroDivisionError):
        within(0.05, lambda: 1 // 0)
    assert sum(range(10_000_000)) > 0


async def test_a_careless_schema_keeps_nobody_waiting(home: Path, tmp_path: Path, start: Any) -> None:
    """What can't be checked in time is denied, with what to do; nothing is sent, and others are served."""
    async with serving(mcp_far_side.app(tmp_path)) as port:
        (home / "config").mkdir()
        (home / "config" / "providers.toml").write_text(
            f'[mcp.servers.far]\nurl = "http://127.0.0.1:{port}/mcp"\n'
            '[mcp.servers.far.tools.careless]\nlevel = "L1"\nkind = "read"\n'
            '[mcp.servers.far.tools.boastful]\nlevel = "L1"\nkind = "read"\n'
        )
        async with start() as broker:
            await broker.grant("mcp", pb.ACCESS_LEVEL_L1)
            assert "aaa" in (await broker.call("mcp", "far_careless", {"text": "aaa"})).data_json
            assert (await broker.call("mcp", "far_careless", {"text": "b"})).code == "INVALID_PARAMS"
            answer = await broker.call("mcp", "far_careless", {"text": "a" * 60 + "!"})
            assert (answer.status, answer.code) == (pb.CALL_STATUS_DENIED, "MCP_CHECK_TOO_SLOW")
            assert "[mcp.servers.far]" in answer.next_steps[0]
            assert "aaa!" not in str(answer)
            boasted = await broker.call("mcp", "far_boastful", {"size": 60})
            assert (boasted.code, "aaa!" in boasted.data_json) == ("OK", True)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({}, "either command or url"),
        ({"url": "https://x.test/mcp", "command": ["x"]}, "either command or url"),
        ({"url": "http://x.test/mcp"}, "https"),
        ({"url": "https://x.test/mcp", "secrets": {"A": "b"}}, "belong to a command"),
        ({"command": ["x"], "bearer_secret": "b"}, "belongs to a url"),
        ({"command": ["x"], "tools": {"t": {"level": "L2", "kind": "mutating"}}}, "L3"),
        ({"command": ["x"], "tools": {"t": {"level": "L1", "kind": "mutating"}}}, "L2 or L3"),
        ({"command": ["x"], "tools": {"a-b": READ, "a_b": READ}}, "two tools"),
        ({"command": ["x"], "tools": {"t" * 70: READ}}, "no name"),
        ({"command": ["x"], "tools": {"t": {"level": "L0", "kind": "read"}}}, "level"),
    ],
)
def test_a_table_that_can_not_be_right_stops_the_start(tmp_path: Path, server: dict[str, Any], words: str) -> None:
    """It names what is wrong."""
    config = {"mcp": {"servers": {"far": server}}}
    with pytest.raises(NanoclawError, match=words) as error:
        provider(Environment(tmp_path, "", lambda name: SecretStr(TOKEN), config))
    assert error.value.reason == "INVALID_SETTING"


async def test_a_tool_through_a_broker(home: Path, tmp_path: Path, start: Any) -> None:
    """A read at L1, with the server's schema in what the group may call; answers that are too large are said to be."""
    async with serving(mcp_far_side.app(tmp_path)) as port:
        (home / "config").mkdir()
        (home / "config" / "providers.toml").write_text(
            f'[mcp.servers.far]\nurl = "http://127.0.0.1:{port}/mcp"\n'
            '[mcp.servers.far.tools.add]\nlevel = "L1"\nkind = "read"\n'
            '[mcp.servers.far.tools.much]\nlevel = "L1"\nkind = "read"\n'
        )
        async with start() as broker:
            await broker.grant("mcp", pb.ACCESS_LEVEL_L1)
            answer = await broker.call("mcp", "far_add", {"a": 20, "b": 22})
            assert (answer.code, "42" in answer.data_json) == ("OK", True)
            refused = await broker.call("mcp", "far_add", {"a": 20})
            assert (refused.status, refused.code) == (pb.CALL_STATUS_DENIED, "INVALID_PARAMS")
            assert (await broker.call("mcp", "far_secret_tool")).code == "UNKNOWN_ACTION"
            assert (await broker.call("mcp", "far_much", {"size": 60_000})).code == "ANSWER_TOO_LARGE"
            listed = await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest(group="developer"))
            schemas = {one.name: one.params_schema_json for one in listed.capabilities[0].actions}
            assert '"b"' in schemas["far_add"]


async def test_watchers_are_told_when_a_server_is_found_and_its_schemas_known(
    home: Path, tmp_path: Path, start: Any
) -> None:
    """What agents may call is listed before, and shown with the server's schema as soon as there is one."""
    async with serving(mcp_far_side.app(tmp_path)) as port:
        pass
    (home / "config").mkdir()
    (home / "config" / "providers.toml").write_text(
        f'[mcp.servers.far]\nurl = "http://127.0.0.1:{port}/mcp"\n'
        '[mcp.servers.far.tools.add]\nlevel = "L1"\nkind = "read"\n'
    )

    async def schema(broker: Any) -> str:
        listed = await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest(group="developer"))
        return str({one.name: one.params_schema_json for one in listed.capabilities[0].actions}["far_add"])

    async with start() as broker:
        await broker.grant("mcp", pb.ACCESS_LEVEL_L1)
        watch = broker.gateway.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=30)
        before = (await watch.read()).revision
        assert await schema(broker) == '{"type":"object"}'
        async with serving(mcp_far_side.app(tmp_path), port):
            assert (await watch.read()).revision > before
            assert '"b"' in await schema(broker)
            watch.cancel()


async def test_what_a_server_says_of_its_tools_holds_no_secret(home: Path, tmp_path: Path, start: Any) -> None:
    """It may say what it was given: agents read descriptions, schemas, and refusals that quote them."""
    (home / "secrets" / "broker").mkdir(parents=True)
    (home / "secrets" / "broker" / "far_token").touch(0o600)
    (home / "secrets" / "broker" / "far_token").write_text(TOKEN)
    (home / "config").mkdir()
    (home / "config" / "providers.toml").write_text(
        f"[mcp.servers.far]\ncommand = {json.dumps([sys.executable, mcp_far_side.__file__, str(tmp_path)])}\n"
        'secrets = {API_TOKEN = "far_token"}\n[mcp.servers.far.tools.indiscreet]\nlevel = "L1"\nkind = "read"\n'
    )
    async with start() as broker:
        await broker.grant("mcp", pb.ACCESS_LEVEL_L1)
        watch = broker.gateway.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=30)
        while True:
            await watch.read()
            listed = str(await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest(group="developer")))
            if "Says what it was given" in listed:
                break
        providers = str(await broker.founder.ListProviders(pb.ListProvidersRequest()))
        refused = await broker.call("mcp", "far_indiscreet", {"text": "x"})
        watch.cancel()
    assert refused.code == "INVALID_PARAMS"
    for said in (listed, providers, str(refused)):
        assert TOKEN not in said
        assert SCRUBBED in said
