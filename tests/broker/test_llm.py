"""The provider `llm` against a messages API server: metered, retried only where nothing was done, refused in words."""

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages_api import KEY, PRICES, MessagesApi, Reply
from pydantic import SecretStr
from serving import serving
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.providers import Effect, Environment, NoReply, Refused
from nanoclaw_broker.providers.llm import CountTokens, Messages, provider
from nanoclaw_broker.providers.llm.actions import encode
from nanoclaw_broker.providers.llm.api import MOST_EVENT, Api, Request
from nanoclaw_broker.providers.llm.body import MessagesParams
from nanoclaw_broker.providers.llm.settings import LlmSettings, Model
from nanoclaw_broker.providers.llm.usage import Meter, worst_micros
from nanoclaw_core.errors import NanoclawError

L2 = pb.ACCESS_LEVEL_L2
ASK = {"model": "claude-test", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
EFFECT = Effect("c1", "developer")


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as server:
        yield server


@asynccontextmanager
async def actions(api: MessagesApi, key: str = KEY, **settings: Any) -> AsyncIterator[tuple[Messages, CountTokens]]:
    """The provider's own, without a broker around them."""
    config = {"llm": {"base_url": api.url, "models": PRICES} | settings}
    made = provider(Environment(Path(), secret=lambda name: SecretStr(key), config=config))
    messages, count = made.actions
    assert isinstance(messages, Messages)
    assert isinstance(count, CountTokens)
    yield messages, count
    assert made.close is not None
    await made.close()


def params(**more: Any) -> MessagesParams:
    """A small request."""
    return MessagesParams.model_validate(ASK | more)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_answers_the_message_and_what_it_cost(api: MessagesApi, stream: bool) -> None:
    """Whole or put together from its events, it is the same message, metered from what the API says."""
    async with actions(api) as (messages, _):
        result = await messages.execute(params(stream=stream), EFFECT)
    assert result.data["content"] == [{"type": "text", "text": "Hello, world"}]
    assert (result.data["stop_reason"], result.data["usage"]["output_tokens"]) == ("end_turn", 7)
    assert result.cost_micros == 12 * 3 + 7 * 15
    assert result.summary == "12 tokens in, 7 out, end_turn"
    assert api.requests == [ASK | ({"stream": True})] if stream else [ASK]


async def test_the_key_and_the_version_go_along_as_configured(api: MessagesApi) -> None:
    """x-api-key or bearer; of the betas those that the operator lists."""
    async with actions(api) as (messages, _):
        await messages.execute(params(), EFFECT)
    async with actions(api, auth="bearer", version="2024-01-01", betas=["fine-*"]) as (messages, _):
        meter = messages.meter(params())
        await messages.whole(params(), meter, 5.0, betas="fine-grained-1, mcp-client-1", query="?beta=true")
    first, second = api.headers
    assert (first["x-api-key"], first["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in first
    assert "anthropic-beta" not in first
    assert (second["authorization"], second["anthropic-version"]) == (f"Bearer {KEY}", "2024-01-01")
    assert (second["anthropic-beta"], api.paths[1]) == ("fine-grained-1", "/v1/messages?beta=true")


@pytest.mark.parametrize("status", [429, 529])
async def test_what_was_not_done_is_sent_again(api: MessagesApi, status: int) -> None:
    """After a Retry-After, or a pause of our own."""
    api.next(Reply(status=status, headers={"retry-after": "0"}), Reply(status=status), Reply())
    async with actions(api) as (messages, _):
        result = await messages.execute(params(), EFFECT)
    assert result.data["content"][0]["text"] == "Hello, world"
    assert len(api.requests) == 3


async def test_a_pause_that_leaves_no_room_is_not_waited_for(api: MessagesApi) -> None:
    """The agent is told when, instead of a time-out that nobody can read."""
    api.next(Reply(status=429, message="slow down", headers={"retry-after": "60"}))
    async with actions(api) as (messages, _):
        with pytest.raises(Exception, match="slow down") as raised:
            await messages.execute(params(), EFFECT)
    assert raised.value.code == "LLM_RATE_LIMITED"  # type: ignore[attr-defined]
    assert raised.value.facts == {"http_status": "429", "retry_after_seconds": "60"}  # type: ignore[attr-defined]
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "LLM_REQUEST_INVALID"), (401, "LLM_KEY_REFUSED"), (402, "LLM_BILLING"), (403, "LLM_NOT_PERMITTED"),
        (404, "LLM_NOT_FOUND"), (413, "LLM_REQUEST_TOO_LARGE"), (500, "LLM_FAILED"), (504, "LLM_TIMED_OUT"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_a_no_is_a_stable_code_with_a_next_step(api: MessagesApi, status: int, code: str, stream: bool) -> None:
    """And it is not repeated: sending the same again would get the same."""
    api.next(Reply(status=status, message="because"))
    async with actions(api) as (messages, _):
        with pytest.raises(Exception, match="because") as raised:
            await messages.execute(params(stream=stream), EFFECT)
    assert raised.value.code == code  # type: ignore[attr-defined]
    assert raised.value.next_steps  # type: ignore[attr-defined]
    assert len(api.requests) == 1


@pytest.mark.parametrize("raw", [b"<html>", b"", b"[]", b'{"error": 1}', b"[" * 100_000])
async def test_an_error_that_is_no_error_body_still_has_a_code(api: MessagesApi, raw: bytes) -> None:
    """By its status: a proxy on the way writes HTML."""
    api.next(Reply(status=404, raw=raw))
    async with actions(api) as (messages, _):
        with pytest.raises(Exception, match="without saying why") as raised:
            await messages.execute(params(), EFFECT)
    assert raised.value.code == "LLM_NOT_FOUND"  # type: ignore[attr-defined]


@pytest.mark.parametrize("raw", [b"<html>", b"", b"[]", b"[" * 100_000])
async def test_an_answer_that_is_none_is_no_reply(api: MessagesApi, raw: bytes) -> None:
    """200 with what can't be read: nobody knows."""
    api.next(Reply(raw=raw))
    async with actions(api) as (messages, _):
        with pytest.raises(NoReply):
            await messages.execute(params(), EFFECT)
    assert len(api.requests) == 1


@pytest.mark.parametrize("reply", [Reply(breaks_after=2), Reply(ends_after=2)])
async def test_a_stream_that_breaks_off_is_no_reply_and_not_repeated(api: MessagesApi, reply: Reply) -> None:
    """However it ends before message_stop."""
    api.next(reply)
    async with actions(api) as (messages, _):
        with pytest.raises(NoReply, match="broke off"):
            await messages.execute(params(stream=True), EFFECT)
    assert len(api.requests) == 1


async def test_an_error_within_a_stream_is_not_repeated_and_costs_what_it_cost(api: MessagesApi) -> None:
    """Something was done: the input was read, and text came."""
    api.next(Reply(texts=("abc", "d"), error_after=1))
    async with actions(api) as (messages, _):
        with pytest.raises(Exception, match="Overloaded") as raised:
            await messages.execute(params(stream=True), EFFECT)
    assert raised.value.code == "LLM_OVERLOADED"  # type: ignore[attr-defined]
    assert raised.value.cost_micros == 12 * 3 + 3 * 15  # type: ignore[attr-defined]
    assert len(api.requests) == 1


async def test_an_api_that_is_not_there_says_so(api: MessagesApi) -> None:
    """Nothing was sent, so it is tried again, and then it is a plain no."""
    async with actions(api, base_url="http://127.0.0.1:9") as (messages, _):
        with pytest.raises(Exception, match="could not be reached") as raised:
            await messages.execute(params(), EFFECT)
    assert raised.value.code == "LLM_UNREACHABLE"  # type: ignore[attr-defined]


async def test_counting_goes_the_same_way(api: MessagesApi) -> None:
    """And answers what the API answers."""
    async with actions(api) as (_, count):
        asked = count.params.model_validate({name: ASK[name] for name in ("model", "messages")})
        assert (await count.execute(asked, EFFECT)).data == {"input_tokens": 10}


REFUSED = [
    ({"model": "gpt"}, "MODEL_NOT_ALLOWED"),
    ({"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}, "SERVER_TOOL_NOT_ALLOWED"),
    ({"tools": [{"type": "code_execution_20250825", "name": "x"}]}, "SERVER_TOOL_NOT_ALLOWED"),
    ({"tools": [{"type": "mcp_toolset", "name": "x"}]}, "SERVER_TOOL_NOT_ALLOWED"),
    *(
        ({"messages": [{"role": "user", "content": content}]}, "SOURCE_NOT_ALLOWED")
        for content in (
            [{"type": "image", "source": {"type": "url", "url": "https://evil/?x"}}],
            [{"type": "document", "source": {"type": "file", "file_id": "f"}}],
            [{"type": "container_upload", "file_id": "f"}],
            [{"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}],
            [{"type": "document", "source": {"type": "content", "content": [{"source": {"type": "url"}}]}}],
        )
    ),
]


@pytest.mark.parametrize(("more", "code"), REFUSED)
async def test_what_would_reach_past_the_broker_is_refused(api: MessagesApi, more: dict[str, Any], code: str) -> None:
    """Nothing in a request has the provider fetch or run anything for the agent, and only listed models are asked."""
    async with actions(api) as (messages, _):
        with pytest.raises(Refused) as raised:
            messages.check(params(**more))
        assert raised.value.code == code
        allowed = [{"name": "Read", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]
        used = {"type": "tool_use", "id": "t", "name": "Read", "input": {"source": {"type": "url", "url": "x"}}}
        messages.check(params(tools=allowed, messages=[{"role": "assistant", "content": [used]}]))


@pytest.mark.parametrize("member", ["mcp_servers", "container", "service_tier", "anything"])
async def test_members_that_are_not_known_are_refused(broker_with: Any, member: str) -> None:
    """By name."""
    async with broker_with() as broker:
        await broker.grant("llm", L2)
        answer = await broker.call("llm", "messages", ASK | {member: []})
    assert (answer.code, member in answer.message) == ("INVALID_PARAMS", True)


def test_what_a_request_may_cost_covers_what_it_does_cost() -> None:
    """Input by its bytes, cached input at the dearer price, the whole answer; a document may fill the context."""
    model = Model(input=3.0, output=15.0)

    def worst(asked: MessagesParams, per_token: float = 1.0) -> int:
        return worst_micros(asked, encode(asked), model, per_token)

    asked = params()
    plain = (len(encode(asked)) + 2000) * 3 + 100 * 15
    assert worst(asked) == plain
    assert worst(asked, 4.0) == (math.ceil(len(encode(asked)) / 4) + 2000) * 3 + 1500
    cached = params(system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}])
    assert worst(cached) == math.ceil((len(encode(cached)) + 2000) * 3.75) + 1500
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 300_000}}
    pictured = worst(params(messages=[{"role": "user", "content": [image]}]))
    assert 5000 * 3 < pictured < 10_000 * 3
    document = {"type": "document", "source": {"type": "base64", "data": "A"}}
    assert worst(params(messages=[{"role": "user", "content": [document]}])) == 200_000 * 3 + 1500


@given(
    st.fixed_dictionaries(
        {name: st.integers(0, 50_000) for name in ("cache_creation_input_tokens", "cache_read_input_tokens")}
    ),
    st.integers(0, 50_000),
    st.integers(0, 2000),
    st.booleans(),
)
def test_no_answer_within_its_limits_costs_more_than_was_reserved(
    cache: dict[str, int], plain: int, out: int, hour: bool
) -> None:
    """However its input is spread over the kinds that are priced apart."""
    model = Model(input=3.0, output=15.0)
    size = plain + sum(cache.values())
    text = "x" * size
    ttl = {"type": "ephemeral", **({"ttl": "1h"} if hour else {})}
    asked = params(max_tokens=max(1, out), system=[{"type": "text", "text": text, "cache_control": ttl}])
    meter = Meter(model, asked.max_tokens)
    usage: dict[str, Any] = {**cache, "input_tokens": plain, "output_tokens": out}
    if hour:
        usage["cache_creation"] = {"ephemeral_1h_input_tokens": cache["cache_creation_input_tokens"]}
    meter.message({"usage": usage})
    assert (meter.micros or 0) <= worst_micros(asked, encode(asked), model, 1.0)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"base_url": "http://models.example"}, "llm.base_url"),
        ({"base_url": "ftp://x"}, "llm.base_url"),
        ({"base_url": "https://u:p@x"}, "llm.base_url"),
        ({"auth": "basic"}, "llm.auth"),
        ({"models": {"m": {"input": -1, "output": 1}}}, "llm.models.m.input"),
        ({"models": {"m": {"input": 1}}}, "llm.models.m.output"),
        ({"modles": {}}, "llm.modles"),
    ],
)
def test_a_table_that_does_not_fit_stops_the_start_by_name(table: dict[str, Any], named: str) -> None:
    """A price that is misspelt is not a price of nothing."""
    with pytest.raises(NanoclawError) as raised:
        provider(Environment(Path(), config={"llm": table}))
    assert raised.value.reason == "INVALID_SETTING"
    assert named in raised.value.message


def test_the_key_is_sent_in_clear_on_this_machine_only() -> None:
    """A typing error must not put it on a wire."""
    for host in ("127.0.0.1:80", "[::1]:80", "localhost"):
        assert LlmSettings.model_validate({"base_url": f"http://{host}/"}).base_url == f"http://{host}"


@pytest.fixture
def broker_with(home: Path, api: MessagesApi, start: Any) -> Any:
    """A broker whose operator has configured models."""

    def started(**settings: Any) -> Any:
        api.configure(home)
        return start(**settings)

    return started


async def test_a_call_through_the_broker_is_in_the_ledger_and_shows_no_key(
    broker_with: Any, api: MessagesApi, home: Path
) -> None:
    """L2, granted; the key is in no answer, even where the API throws it back."""
    async with broker_with() as broker:
        denied = await broker.call("llm", "messages", ASK)
        assert denied.code == "NO_CAPABILITY"
        await broker.grant("llm", L2)
        answer = await broker.call("llm", "messages", ASK)
        assert (answer.code, json.loads(answer.data_json)["content"][0]["text"]) == ("OK", "Hello, world")
        row = await broker.record(answer.call_id)
        assert (row.state, row.result_summary) == (pb.CALL_STATE_EXECUTED, "12 tokens in, 7 out, end_turn")
        assert row.params_summary == "claude-test, 1 messages, at most 100 tokens"
        api.key = "another"
        told = await broker.call("llm", "messages", ASK)
        assert (told.code, told.message) == ("LLM_KEY_REFUSED", "invalid x-api-key [scrubbed]")
        api.key = KEY
        api.next(Reply(breaks_after=1))
        broken = await broker.call("llm", "messages", ASK | {"stream": True})
        assert (broken.status, broken.code) == (pb.CALL_STATUS_TIMEOUT, "EFFECT_UNKNOWN")
        given_up = (pb.CALL_STATE_UNKNOWN, pb.CALL_STATE_ABANDONED)  # harmless, so it is given up a moment later
        assert (await broker.record(broken.call_id)).state in given_up
    for path in home.rglob("*"):
        if path.is_file() and path.name != "llm_api_key":
            assert KEY.encode() not in path.read_bytes(), path


async def test_without_its_key_it_is_missing(home: Path, broker_with: Any) -> None:
    """And the agent is told whom to ask."""
    async with broker_with() as broker:
        await broker.grant("llm", L2)
        (home / "secrets" / "broker" / "llm_api_key").unlink()
        os.kill(os.getpid(), 1)
        for _ in range(100):
            answer = await broker.call("llm", "messages", ASK | {"model": "nobody"})
            if answer.code == "SECRETS_MISSING":
                break
        assert (answer.code, "llm_api_key" in answer.next_steps[0]) == ("SECRETS_MISSING", True)


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 2**18, b"data: x\n" * 2**15], ids=["one line", "many lines"])
async def test_an_event_without_an_end_is_not_kept(piece: bytes) -> None:
    """A stream is read in bounded memory, however long it goes on; events that end may be as many as they like."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(200):
            yield b'event: ping\ndata: {"type": "ping", "padding": "' + b"x" * 2**16 + b'"}\n\n'
        while sent < 20 * MOST_EVENT:
            sent += len(piece)
            yield piece
            await asyncio.sleep(0)  # so that it is seen that nobody reads on

    async def answer(request: Any) -> StreamingResponse:
        return StreamingResponse(endless(), media_type="text/event-stream")

    async with serving(Starlette(routes=[Route("/v1/messages", answer, methods=["POST"])])) as port:
        api = Api(LlmSettings(base_url=f"http://127.0.0.1:{port}"), lambda name: SecretStr(KEY))
        came = 0
        with pytest.raises(NoReply, match="more than"):
            async with api.events(Request("/v1/messages", b"{}", 30.0)) as events:
                async for _ in events:
                    came += 1
        await api.close()
    assert came == 200
    assert sent < 3 * MOST_EVENT
