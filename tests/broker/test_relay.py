"""The model relay: each request of a socket is a decided and metered call, streamed through and cut off in time."""

import asyncio
import contextlib
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from messages_api import KEY, MessagesApi, Reply

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw.runtime.v1 import runtime_pb2 as rt
from nanoclaw.runtime.v1 import runtime_pb2_grpc
from nanoclaw_broker.relay.server import MOST_CONNECTIONS
from nanoclaw_core.errors import Kind, NanoclawError

L1, L2 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2
ASK = {"model": "claude-test", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
STREAM = ASK | {"stream": True}
ATTEMPT = "nc-0123456789abcdef0123-1"


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as server:
        yield server


@pytest.fixture
def thinking(home: Path, api: MessagesApi, start: Any, governance: Any) -> Callable[..., Any]:
    """`async with thinking(relay_rate=2) as agent:` serves a broker and one attempt's relay on task t1."""

    @contextlib.asynccontextmanager
    async def started(granted: bool = True, **settings: Any) -> AsyncIterator[Agent]:
        api.configure(home)
        governance.put("t1")
        async with start(**settings) as broker:
            if granted:
                await broker.grant("llm", L2)
            agent = Agent(broker, api)
            await agent.open()
            yield agent

    return started


class Agent:
    """What an attempt can do with its relay, and what the dispatcher does for it."""

    def __init__(self, broker: Any, api: MessagesApi, attempt: str = ATTEMPT, group: str = "developer") -> None:
        self.broker, self.api, self.attempt, self.group = broker, api, attempt, group
        self.dispatcher = broker.stub("service:dispatcher")
        self.path = Path()

    async def open(self, **fields: Any) -> pb.OpenRelayResponse:
        fields = {
            "request_id": f"{self.attempt}:relay", "attempt_id": self.attempt, "group": self.group, "task_id": "t1",
        } | fields  # fmt: skip
        answer = await self.dispatcher.OpenRelay(pb.OpenRelayRequest(**fields))
        self.path = Path(answer.path)
        return answer

    async def close(self) -> pb.CloseRelayResponse:
        return await self.dispatcher.CloseRelay(
            pb.CloseRelayRequest(request_id=f"{self.attempt}:close", attempt_id=self.attempt)
        )

    def client(self) -> httpx.AsyncClient:
        """As an SDK would be, with a key that is none."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.path / "llm.sock"), verify=False)
        headers = {"x-api-key": "none", "anthropic-version": "2023-06-01"}
        return httpx.AsyncClient(transport=transport, base_url="http://relay", headers=headers, timeout=10)

    async def ask(self, body: Any = ASK, path: str = "/v1/messages", **more: Any) -> httpx.Response:
        """One whole answer."""
        async with self.client() as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return await client.post(path, content=content, **more)

    async def events(self, body: Any = STREAM) -> AsyncIterator[dict[str, Any]]:
        """The events of a streamed one."""
        async with self.client() as client, client.stream("POST", "/v1/messages", json=body) as response:
            async for one in EventSource(response).aiter_sse():
                yield json.loads(one.data)

    async def calls(self) -> list[pb.CallRecord]:
        """The ledger, oldest first."""
        listed = await self.broker.founder.ListCalls(pb.ListCallsRequest(page_size=100))
        return list(reversed(listed.calls))

    async def ended(self) -> pb.CallRecord:
        """The last call, once it has ended."""
        async with asyncio.timeout(10):
            while True:
                last = (await self.calls())[-1]
                if last.state not in (pb.CALL_STATE_PREPARED, pb.CALL_STATE_SENT):
                    return last
                await asyncio.sleep(0.01)


class Held:
    """A stream that stops before its second delta until the test lets it go on."""

    def __init__(self) -> None:
        self._go = threading.Event()

    def __call__(self, number: int) -> None:
        if number == 1:
            self._go.wait(15)

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.let_go()


def error_of(answer: httpx.Response | dict[str, Any]) -> tuple[str, str]:
    """Type and code of an error body."""
    body = answer.json() if isinstance(answer, httpx.Response) else answer
    assert body["type"] == "error"
    return body["error"]["type"], body["error"]["code"]


async def test_a_request_is_answered_metered_and_in_the_ledger(thinking: Any, api: MessagesApi) -> None:
    """By group, attempt and task; the answer's words are nowhere but with the agent."""
    async with thinking() as agent:
        answer = await agent.ask()
        assert (answer.status_code, answer.json()["content"][0]["text"]) == (200, "Hello, world")
        row = await agent.ended()
        assert (row.group, row.attempt_id, row.task_id) == ("developer", ATTEMPT, "t1")
        assert (row.provider, row.action, row.level) == ("llm", "messages", L2)
        assert (row.state, row.code) == (pb.CALL_STATE_EXECUTED, "OK")
        assert row.result_summary == "12 tokens in, 7 out, end_turn"
        assert answer.headers["request-id"] == row.call_id
        recorded = await agent.broker.founder.GetCall(pb.GetCallRequest(call_id=row.call_id))
        assert json.loads(recorded.answer.data_json) == {
            "model": "claude-test",
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 12, "output_tokens": 7},
        }
        assert api.requests == [ASK]
        assert api.headers[0]["x-api-key"] == KEY


async def test_a_stream_comes_through_as_it_comes(thinking: Any, api: MessagesApi, held: Held) -> None:
    """The first words are there while the model still thinks."""
    api.next(Reply(pause=held))
    async with thinking() as agent:
        seen = []
        async for event in agent.events():
            seen.append(event)
            if event["type"] == "content_block_delta":
                held.let_go()
        assert list(dict.fromkeys(one["type"] for one in seen)) == [
            "message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop",
            "message_delta", "message_stop",
        ]  # fmt: skip
        assert "".join(one["delta"]["text"] for one in seen if one["type"] == "content_block_delta") == "Hello, world"
        row = await agent.ended()
        assert (row.state, row.result_summary) == (pb.CALL_STATE_EXECUTED, "12 tokens in, 7 out, end_turn")


async def test_nothing_leaves_before_it_is_sent_by_the_ledger(thinking: Any, api: MessagesApi) -> None:
    """SENT is on disk when the first byte arrives over there."""
    states: list[str] = []

    def look(number: int) -> None:
        import sqlite3

        with contextlib.closing(sqlite3.connect(database)) as connection:
            states.extend(row[0] for row in connection.execute("SELECT state FROM ext_calls"))

    api.next(Reply(pause=look))
    async with thinking() as agent:
        database = agent.broker.database
        await agent.ask()
    assert states == ["SENT"]


async def test_without_a_grant_nothing_leaves_and_the_sdk_is_told_why(thinking: Any, api: MessagesApi) -> None:
    """permission_error, with our code, the smallest grant, and word not to try again."""
    async with thinking(granted=False) as agent:
        for body in (ASK, STREAM):
            answer = await agent.ask(body)
            assert (answer.status_code, error_of(answer)) == (403, ("permission_error", "NO_CAPABILITY"))
            assert answer.headers["x-should-retry"] == "false"
            assert json.loads(answer.json()["error"]["facts"]["grant"])["provider"] == "llm"
        assert [row.state for row in await agent.calls()] == [pb.CALL_STATE_DENIED] * 2
        assert not api.requests


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "INVALID_FIELD"),
        (b'{"model": "claude-test", "model": "x"}', 400, "INVALID_FIELD"),
        (b"\xff\xfe", 400, "INVALID_FIELD"),
        (b"", 400, "INVALID_PARAMS"),
        (json.dumps(ASK | {"mcp_servers": []}).encode(), 400, "INVALID_PARAMS"),
        (json.dumps(ASK | {"model": "gpt"}).encode(), 403, "MODEL_NOT_ALLOWED"),
        (b" " * (1024 * 1024 + 1), 413, "REQUEST_TOO_LARGE"),
    ],
)
async def test_what_is_no_request_is_refused_in_words(
    thinking: Any, api: MessagesApi, body: bytes, status: int, code: str
) -> None:
    """In the API's own form, and nothing leaves."""
    async with thinking() as agent:
        answer = await agent.ask(body)
        assert (answer.status_code, error_of(answer)[1]) == (status, code)
        assert not api.requests


async def test_other_paths_are_not_there(thinking: Any) -> None:
    """Only what SDKs need for asking a model."""
    async with thinking() as agent, agent.client() as client:
        for method, path in (("GET", "/v1/messages"), ("POST", "/v1/files"), ("GET", "/"), ("GET", "/v1/models/gpt")):
            answer = await client.request(method, path)
            assert (answer.status_code, error_of(answer)[0]) == (404, "not_found_error")
        models = (await client.get("/v1/models")).json()
        assert [one["id"] for one in models["data"]] == ["claude-dear", "claude-test"]
        assert (await client.get("/v1/models/claude-test")).json()["id"] == "claude-test"


async def test_counting_is_a_call_of_its_own(thinking: Any) -> None:
    """It leaves the machine as the request itself would."""
    async with thinking() as agent:
        body = {name: ASK[name] for name in ("model", "messages")}
        answer = await agent.ask(body, "/v1/messages/count_tokens")
        assert answer.json() == {"input_tokens": 10}
        assert [(row.action, row.state) for row in await agent.calls()] == [("count_tokens", pb.CALL_STATE_EXECUTED)]


async def test_its_rate_is_its_own_and_exact(thinking: Any) -> None:
    """What is thought does not use up what may be done, nor the other way round; past it: 429, and when to come."""
    async with thinking(relay_rate=2, rate_l2=1) as agent:
        assert (await agent.broker.call("llm", "messages", ASK)).code == "OK"
        answers = await asyncio.gather(*(agent.ask() for _ in range(4)))
        assert sorted(one.status_code for one in answers) == [200, 200, 429, 429]
        late = next(one for one in answers if one.status_code == 429)
        assert error_of(late) == ("rate_limit_error", "RATE_LIMITED")
        assert 0 < int(late.headers["retry-after"]) <= 61
        assert late.headers["x-should-retry"] == "true"
        assert (await agent.broker.call("llm", "messages", ASK)).code == "RATE_LIMITED"


async def test_so_many_at_once_and_no_more(thinking: Any, api: MessagesApi, held: Held) -> None:
    """Of one attempt; calls and other attempts are not in its way."""
    api.next(*[Reply(pause=held)] * 2)
    async with thinking(relay_pending=2, pending=1) as agent:
        streams = [agent.events() for _ in range(2)]
        for stream in streams:
            await anext(stream)
        answer = await agent.ask()
        assert (answer.status_code, error_of(answer)) == (429, ("rate_limit_error", "BUSY"))
        assert (await agent.broker.call("llm", "messages", ASK)).code == "OK"
        other = Agent(agent.broker, api, "nc-other-1")
        await other.open()
        assert (await other.ask()).status_code == 200
        held.let_go()
        for stream in streams:
            assert [event["type"] async for event in stream][-1] == "message_stop"


async def limit_the_day(agent: Agent, cents: int) -> None:
    """Sets what the group may spend in a day."""
    stub: Any = runtime_pb2_grpc.RuntimeServiceStub(agent.broker.dial(agent.broker.address, "operator:founder"))
    request = rt.SetBudgetRequest(request_id=f"b{cents}", group="developer", limit_cents=cents)
    request.period = rt.BUDGET_PERIOD_DAY
    await stub.SetBudget(request)


async def test_a_request_that_the_budget_does_not_cover_does_not_leave(thinking: Any, api: MessagesApi) -> None:
    """The most that it can cost is set aside before; afterwards what it did cost is spent."""
    async with thinking() as agent:
        await limit_the_day(agent, 1)  # 10 000 micros; the request may cost some 8 000
        assert (await agent.ask()).status_code == 200
        assert (await agent.ended()).cost_micros == 12 * 3 + 7 * 15
        answer = await agent.ask(ASK | {"max_tokens": 1000})
        assert (answer.status_code, error_of(answer)) == (429, ("rate_limit_error", "BUDGET_EXCEEDED"))
        assert answer.headers["x-should-retry"] == "false"
        assert len(api.requests) == 1


async def test_what_is_set_aside_for_a_request_does_not_stand_in_its_own_way(
    thinking: Any, api: MessagesApi, governance: Any, held: Held
) -> None:
    """It takes up nearly all that the day leaves, is asked about again and again, and goes on."""
    api.next(Reply(pause=held))
    async with thinking() as agent:
        await limit_the_day(agent, 1)
        stream = agent.events()
        await anext(stream)
        twice = len(governance.asked) + 2
        async with asyncio.timeout(10):
            while len(governance.asked) < twice:
                await asyncio.sleep(0.01)
        held.let_go()
        assert [event async for event in stream][-1]["type"] == "message_stop"


BREACHES: dict[str, Any] = {
    "a revoked grant": (lambda agent: agent.broker.revoke("llm"), "NO_CAPABILITY"),
    "a freeze": (
        lambda agent: agent.broker.founder.Freeze(
            pb.FreezeRequest(request_id="f", group="developer", max_level=L1, reason="stop")
        ),
        "FROZEN",
    ),
    "the end of the attempt": (lambda agent: agent.close(), "RELAY_CLOSED"),
    "a lowered budget": (lambda agent: limit_the_day(agent, 0), "BUDGET_EXCEEDED"),
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_breach_cuts_the_stream_off(thinking: Any, api: MessagesApi, held: Held, breach: str) -> None:
    """Within the stream: the agent is told, the provider is hung up on, the ledger says what it has cost until then."""
    act, code = BREACHES[breach]
    api.next(Reply(texts=("abc.", "never seen"), pause=held))
    async with thinking() as agent:
        seen: list[dict[str, Any]] = []
        async for event in agent.events():
            seen.append(event)
            if event["type"] == "content_block_delta":
                await act(agent)
        assert error_of(seen[-1])[1] == code
        assert [one["delta"]["text"] for one in seen if one["type"] == "content_block_delta"] == ["abc."]
        row = await agent.ended()
        assert (row.state, row.code) == (pb.CALL_STATE_FAILED, code)
        assert row.cost_micros == 12 * 3 + len("abc.") * 15
        held.let_go()
        assert await asyncio.to_thread(api.aborted.wait, 10)


async def test_a_task_that_another_attempt_has_taken_over_is_not_thought_about(
    thinking: Any, governance: Any, api: MessagesApi, held: Held
) -> None:
    """A fenced attempt is refused, and cut off in the middle."""
    api.next(Reply(pause=held))
    async with thinking() as agent:
        seen = []
        async for event in agent.events():
            seen.append(event)
            if event["type"] == "content_block_delta":
                governance.put("t1", attempts=[gov.BoundAttempt(group="developer", attempt_id="nc-next-2")])
        assert error_of(seen[-1])[1] == "STALE_ATTEMPT"
        assert error_of(await agent.ask())[1] == "STALE_ATTEMPT"


@pytest.mark.parametrize("state", [gov.TASK_STATE_DOING, gov.TASK_STATE_APPROVAL, gov.TASK_STATE_REVIEW])
async def test_reviewers_think_and_an_agent_has_a_last_thought(thinking: Any, governance: Any, state: Any) -> None:
    """Thinking about a task is no more than reading it; who has nothing to do with it does not do that either."""
    async with thinking() as agent:
        governance.put("t1", state=state, approver_group="security")
        for group, status in (("developer", 200), ("security", 200), ("sales", 403)):
            await agent.broker.grant("llm", L2, group=group)
            one = Agent(agent.broker, agent.api, f"nc-{group}-1", group)
            await one.open()
            assert (await one.ask()).status_code == status


@pytest.mark.parametrize("body", [STREAM, ASK])
async def test_an_agent_that_goes_away_ends_its_request(thinking: Any, api: MessagesApi, held: Held, body: Any) -> None:
    """Nobody pays for what nobody reads; streaming or not."""
    api.next(Reply(pause=held if body is STREAM else lambda number: held(1)))
    async with thinking() as agent:
        async with agent.client() as client:
            asking = asyncio.create_task(client.post("/v1/messages", json=body))
            async with asyncio.timeout(10):
                while not api.requests:
                    await asyncio.sleep(0.01)
            asking.cancel()
        row = await agent.ended()
        assert (row.state, row.code) == (pb.CALL_STATE_FAILED, "CLIENT_GONE")


@pytest.mark.parametrize("reply", [Reply(breaks_after=1), Reply(ends_after=1)])
async def test_an_answer_that_breaks_off_is_unknown_and_harmless(thinking: Any, api: MessagesApi, reply: Reply) -> None:
    """The agent is told within the stream; the ledger clears it up by itself, for nothing was changed anywhere."""
    api.next(reply)
    async with thinking() as agent:
        seen = [event async for event in agent.events()]
        assert error_of(seen[-1]) == ("timeout_error", "EFFECT_UNKNOWN")
        row = await agent.ended()
        assert row.state in (pb.CALL_STATE_UNKNOWN, pb.CALL_STATE_RECONCILED, pb.CALL_STATE_ABANDONED)
        assert row.unknown_ends_by == pb.UNKNOWN_ENDS_BY_HARMLESS


async def test_an_answer_that_takes_too_long_is_cut_off(thinking: Any, api: MessagesApi, held: Held) -> None:
    """After RELAY_SECONDS, whole or streamed."""
    async with thinking(relay_seconds=1.0) as agent:
        drops = Reply(texts=("drip.",) * 50, pause=lambda number: threading.Event().wait(0.2))  # never silent for long
        api.next(drops)
        assert error_of([event async for event in agent.events()][-1]) == ("timeout_error", "EFFECT_UNKNOWN")
        api.next(Reply(pause=lambda number: held(1)))
        assert error_of(await agent.ask()) == ("timeout_error", "EFFECT_UNKNOWN")


async def test_while_tasks_can_not_be_read_nothing_new_is_thought(
    thinking: Any, api: MessagesApi, governance: Any, held: Held
) -> None:
    """What was allowed goes on, for nobody has said otherwise; what comes anew is told to come again."""
    api.next(Reply(pause=held))
    async with thinking() as agent:
        stream = agent.events()
        seen = [await anext(stream)]
        away = asyncio.Event()

        async def fails() -> None:
            away.set()
            raise NanoclawError(Kind.UNAVAILABLE, "AWAY", "not now")

        governance.on_get = fails
        await away.wait()
        answer = await agent.ask()
        assert (answer.status_code, error_of(answer)) == (529, ("overloaded_error", "GOVERNANCE_UNAVAILABLE"))
        held.let_go()
        seen += [event async for event in stream]
        assert seen[-1]["type"] == "message_stop"
    assert len(api.requests) == 1


async def test_the_apis_own_no_comes_through_with_our_code(thinking: Any, api: MessagesApi) -> None:
    """Before the stream as a status, within it as an event."""
    async with thinking() as agent:
        api.next(Reply(status=400, message="messages: too odd"))
        answer = await agent.ask(STREAM)
        assert (answer.status_code, error_of(answer)) == (400, ("invalid_request_error", "LLM_REQUEST_INVALID"))
        assert "too odd" in answer.json()["error"]["message"]
        api.next(Reply(error_after=1))
        seen = [event async for event in agent.events()]
        assert error_of(seen[-1]) == ("overloaded_error", "LLM_OVERLOADED")


async def test_an_answer_dearer_than_was_set_aside_is_cut_off(thinking: Any, api: MessagesApi) -> None:
    """What was reserved is the most that can be spent, whatever the other side says."""
    api.next(Reply(usage={"input_tokens": 190_000, "output_tokens": 7}))
    async with thinking() as agent:
        seen = [event async for event in agent.events()]
        assert error_of(seen[-1]) == ("rate_limit_error", "BUDGET_EXCEEDED")
        row = await agent.ended()
        assert (row.state, row.cost_micros) == (pb.CALL_STATE_FAILED, 190_000 * 3 + 15)
        assert error_of(await agent.ask())[1] == "BUDGET_FROZEN"


@pytest.mark.parametrize(
    "texts", [(f"it is {KEY}!",), (f"it is {KEY[:9]}", KEY[9:12], f"{KEY[12:]}!"), tuple(f"it is {KEY}!")]
)
async def test_no_secret_comes_through_even_in_pieces(thinking: Any, api: MessagesApi, texts: tuple[str, ...]) -> None:
    """Whole, within a message, or spread over the events of a stream."""
    async with thinking() as agent:
        api.next(Reply(texts=texts), Reply(texts=texts))
        seen = [event async for event in agent.events()]
        said = "".join(one["delta"]["text"] for one in seen if one["type"] == "content_block_delta")
        assert said == "it is [scrubbed]!"
        assert (await agent.ask()).json()["content"][0]["text"] == "it is [scrubbed]!"


async def test_what_only_begins_like_a_secret_is_not_lost(thinking: Any, api: MessagesApi) -> None:
    """It is held back no longer than to the end of its block."""
    api.next(Reply(texts=("sk-te", "st-8c", "1d")))
    async with thinking() as agent:
        seen = [event async for event in agent.events()]
        assert "".join(one["delta"]["text"] for one in seen if one["type"] == "content_block_delta") == "sk-test-8c1d"


async def test_the_key_is_nowhere_but_in_the_brokers_file(thinking: Any, api: MessagesApi, home: Path) -> None:
    """Not in an answer, not in an error that quotes it, not in the database."""
    async with thinking() as agent:
        texts = [(await agent.ask()).text, json.dumps([event async for event in agent.events()])]
        api.key = "another"
        answer = await agent.ask()
        assert error_of(answer) == ("api_error", "LLM_KEY_REFUSED")
        texts.append(answer.text)
    assert not any(KEY in text for text in texts)
    for path in home.rglob("*"):
        if path.is_file() and path.name != "llm_api_key":
            assert KEY.encode() not in path.read_bytes(), path


async def test_a_relay_outlives_its_broker(thinking: Any, start: Any, api: MessagesApi, home: Path) -> None:
    """The next one serves the same socket in the same folder; what was left of no open relay is swept."""
    async with thinking() as agent:
        stale = home / "attempts" / "nc-gone-1" / "relay"
        stale.mkdir(parents=True)
        gone = Agent(agent.broker, api, "nc-removed-1")
        await gone.open()
        folder = agent.path
    (gone.path / "llm.sock").unlink()
    gone.path.rmdir()
    gone.path.parent.rmdir()
    async with start() as broker:
        after = Agent(broker, api)
        after.path = folder
        assert (await after.ask()).status_code == 200
        assert not stale.exists()
        assert not gone.path.parent.exists()
        with pytest.raises(NanoclawError) as raised:
            await Agent(broker, api, "nc-removed-1").open(request_id="again")
        assert raised.value.reason == "RELAY_CLOSED"


async def test_a_broker_that_stops_says_so(thinking: Any, api: MessagesApi, held: Held, start: Any) -> None:
    """What was under way is cut off and settled, not lost."""
    api.next(Reply(pause=held))
    async with thinking() as agent:
        stream = agent.events()
        seen = [await anext(stream) for _ in range(4)]
        rest = asyncio.create_task(_rest(stream))
    seen += await rest
    assert error_of(seen[-1])[1] == "BROKER_STOPPING"
    async with start() as broker:
        assert (await Agent(broker, api).calls())[-1].code == "BROKER_STOPPING"


async def _rest(stream: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in stream]


async def test_opening_again_changes_nothing_and_closing_is_for_good(thinking: Any, home: Path) -> None:
    """Whoever crashed in between repeats it; another group or task does not get in."""
    async with thinking() as agent:
        assert (await agent.open()).path == str(agent.path)
        assert (await agent.open(request_id="other")).path == str(agent.path)
        for fields in ({"group": "sales"}, {"task_id": "t2"}):
            with pytest.raises(NanoclawError) as raised:
                await agent.open(
                    request_id=f"for-{fields}".replace("'", "").replace("{", "")[:20].strip("}:, "), **fields
                )
            assert raised.value.reason in ("RELAY_EXISTS", "INVALID_FIELD")
        assert (await agent.close()).changed
        assert (await agent.close()).changed
        assert not agent.path.exists()
        with pytest.raises(httpx.ConnectError):
            await agent.ask()
        with pytest.raises(NanoclawError) as raised:
            await agent.open(request_id="anew")
        assert (raised.value.kind, raised.value.reason) == (Kind.PRECONDITION, "RELAY_CLOSED")
        await agent.open()  # the first request repeated: answered as it was, and nothing is served
        assert not agent.path.exists()


@pytest.mark.parametrize("attempt", ["", "..", "a/b", "../x", "A", "a" * 64, "-a"])
async def test_an_attempt_that_is_no_folders_name_is_refused(thinking: Any, attempt: str) -> None:
    """It names a path below attempts/."""
    async with thinking() as agent:
        for call in (agent.open, agent.close):
            agent.attempt = attempt
            with pytest.raises(NanoclawError) as raised:
                await call()
            assert raised.value.kind is Kind.INVALID


async def test_a_link_in_the_way_is_not_followed(thinking: Any, home: Path, tmp_path: Path) -> None:
    """The socket is made in a folder of ours, or not at all."""
    async with thinking() as agent:
        (home / "attempts" / "nc-linked-1").mkdir()
        (home / "attempts" / "nc-linked-1" / "relay").symlink_to(tmp_path)
        with pytest.raises(NanoclawError) as raised:
            await Agent(agent.broker, agent.api, "nc-linked-1").open()
        assert raised.value.reason == "RELAY_UNAVAILABLE"
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("gid", [None, os.getgid()])
async def test_the_socket_is_open_to_the_agents_group_alone(thinking: Any, gid: int | None) -> None:
    """0750 and 0660 for the group that is configured, else nobody but us."""
    async with thinking(agent_uid=gid or None) as agent:
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (agent.path, agent.path / "llm.sock")]
        assert modes == ([0o750, 0o660] if gid else [0o700, 0o600])


async def test_a_long_home_is_no_obstacle(thinking: Any, agent_home_is_long: None) -> None:
    """The path of a socket may have 107 bytes; that of a home is somebody else's choice."""
    async with thinking() as agent:
        assert len(str(agent.path / "llm.sock")) > 107
        assert (agent.path / "llm.sock").is_socket()


@pytest.fixture
def agent_home_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts lie deep."""
    from nanoclaw_broker.relay import sockets

    monkeypatch.setattr(sockets, "FOLDER", "r" * 100)


async def test_one_attempt_can_not_take_all_of_the_brokers_connections(thinking: Any) -> None:
    """It is hung up on past its share, and heard again when it lets go."""
    async with thinking() as agent:
        writers = []
        for _ in range(MOST_CONNECTIONS):
            _, writer = await asyncio.open_unix_connection(str(agent.path / "llm.sock"))
            writers.append(writer)
        reader, writer = await asyncio.open_unix_connection(str(agent.path / "llm.sock"))
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        for one in [*writers, writer]:
            one.close()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await agent.ask()).status_code == 200:
                        break


async def test_relays_are_the_dispatchers_to_open(thinking: Any) -> None:
    """Neither an admin nor a group nor another service."""
    async with thinking() as agent:
        for principal in ("operator:founder", "service:gateway", "service:governance"):
            agent.dispatcher = agent.broker.stub(principal)
            with pytest.raises(NanoclawError) as raised:
                await agent.open(request_id="x")
            assert raised.value.reason == "NOT_PERMITTED"


async def test_a_thought_is_in_its_tasks_trace(thinking: Any) -> None:
    """The attempt's trace goes through the socket, whoever sits at it."""
    async with thinking() as agent:
        trace = "0af7651916cd43dd8448eb211c80319c"
        one = Agent(agent.broker, agent.api, "nc-traced-1")
        await one.open(traceparent=f"00-{trace}-b7ad6b7169203331-01")
        await one.ask()
        assert (await one.ended()).trace_id == trace
