"""Words between agents and people."""

import asyncio
import json
from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import page

OPEN = gateway.OpenMailboxRequest(request_id="open", attempt_id="nc-a-1", group="developer", task_id="t-1", fence=1)


async def say(agent: Any, text: str, **more: Any) -> None:
    """Leaves a message, and waits until it is kept."""
    name = agent.write({"type": "message", "text": text, **more}, folder="messages")
    assert (await agent.answer(name))["status"] == "executed"


async def listed(stub: Any, **filters: Any) -> list[Any]:
    """All messages, page by page."""
    found: list[Any] = []
    token = ""
    while True:
        response = await stub.ListMessages(gateway.ListMessagesRequest(page_size=2, page_token=token, **filters))
        found.extend(response.messages)
        token = response.next_page_token
        if not token:
            return found


async def test_messages_are_kept_in_order_with_who_sent_them(served: Any) -> None:
    """By mailbox; what the file says about its sender is kept as a claim."""
    await served.stub("services/dispatcher").OpenMailbox(OPEN)
    await say(served.mailbox("main"), "one", sender="Boss", groupFolder="security")
    await say(served.attempt("nc-a-1"), "two")
    await say(served.mailbox(), "three")
    stub = served.stub()
    found = await listed(stub)
    assert [(m.seq, m.text, m.group, m.attempt_id, m.task_id, m.sender) for m in found] == [
        (1, "one", "main", "", "", "Boss"),
        (2, "two", "developer", "nc-a-1", "t-1", ""),
        (3, "three", "developer", "", "", ""),
    ]
    assert [m.text for m in await listed(stub, group="developer")] == ["two", "three"]
    assert [m.text for m in await listed(stub, task_id="t-1")] == ["two"]


async def test_long_messages_are_listed_page_by_page(served: Any) -> None:
    """An agent can't put the list out of an operator's reach: ten of the longest are more than one answer holds."""
    agent, text = served.mailbox(), "x" * (1024 * 1024 - 100)
    for _ in range(10):
        await say(agent, text)
    stub, seen, token = served.stub(), [], ""
    while True:
        response = await stub.ListMessages(gateway.ListMessagesRequest(page_size=500, page_token=token))
        seen += [(message.seq, len(message.text)) for message in response.messages]
        token = response.next_page_token
        if not token:
            break
    assert seen == [(seq, len(text)) for seq in range(1, 11)]


@pytest.mark.parametrize("token", ["forged", page.encode("x"), page.encode(1, 2), page.encode(1 << 63)])
async def test_a_page_token_of_another_list_is_refused(served: Any, token: str) -> None:
    """Neither the beginning nor an internal error."""
    with pytest.raises(NanoclawError) as refusal:
        await served.stub().ListMessages(gateway.ListMessagesRequest(page_token=token))
    assert refusal.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_watcher_misses_nothing_and_is_told_at_once(served: Any) -> None:
    """From its cursor on, over any number of reconnections."""
    stub, agent = served.stub(), served.mailbox()
    await say(agent, "before")
    stream = stub.WatchMessages(gateway.WatchMessagesRequest(after_seq=0))
    assert (await stream.read()).message.text == "before"
    reading = asyncio.create_task(stream.read())
    await say(agent, "after")
    assert (await asyncio.wait_for(reading, 5)).message.text == "after"
    stream.cancel()
    await say(agent, "while away")
    stream = stub.WatchMessages(gateway.WatchMessagesRequest(after_seq=2))
    assert (await stream.read()).message.text == "while away"
    stream.cancel()


async def test_a_cursor_past_the_head_is_refused(served: Any) -> None:
    """Never a silent wait."""
    with pytest.raises(NanoclawError) as refusal:
        await served.stub().WatchMessages(gateway.WatchMessagesRequest(after_seq=5)).read()
    assert refusal.value.reason == "CURSOR_INVALID"


async def test_a_quiet_stream_has_a_heartbeat(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It carries the place to go on from, and no message."""
    monkeypatch.setattr("nanoclaw_ipc_gateway.post.HEARTBEAT_SECONDS", 0.05)
    await say(served.mailbox(), "one")
    stream = served.stub().WatchMessages(gateway.WatchMessagesRequest())
    beat = await stream.read()
    assert (beat.seq, beat.HasField("message")) == (1, False)
    stream.cancel()


async def test_a_reply_reaches_the_attempt_that_asked(served: Any) -> None:
    """As an input file, under the founder's name, and in the record."""
    await served.stub("services/dispatcher").OpenMailbox(OPEN)
    agent = served.attempt("nc-a-1")
    await say(agent, "which colour?")
    stub = served.stub()
    (asked,) = await listed(stub)
    reply = (await stub.Reply(gateway.ReplyRequest(request_id="r", message_id=asked.id, text="blue"))).message
    (path,) = (agent.path / "input").iterdir()
    content = json.loads(path.read_text())
    assert (content["type"], content["text"], content["in_reply_to"]) == ("message", "blue", asked.id)
    assert (reply.replied_by, reply.in_reply_to, reply.seq) == ("operator:founder", asked.id, 2)


async def test_a_reply_is_said_once_though_it_is_asked_for_twice(served: Any) -> None:
    """The agent removes what it has read; a repeated request does not bring it back."""
    stub, agent = served.stub(), served.mailbox()
    request = gateway.ReplyRequest(request_id="r", group="developer", text="hello")
    first = await stub.Reply(request)
    (path,) = (agent.path / "input").iterdir()
    path.unlink()
    assert await stub.Reply(request) == first
    assert list((agent.path / "input").iterdir()) == []
    assert list((served.home / "ipc" / ".outgoing").iterdir()) == []
    with pytest.raises(NanoclawError) as refusal:
        await stub.Reply(gateway.ReplyRequest(request_id="r", group="developer", text="other"))
    assert refusal.value.reason == "REQUEST_ID_REUSED"
    assert list((agent.path / "input").iterdir()) == []


async def test_a_reply_to_a_closed_attempt_goes_to_its_group(served: Any) -> None:
    """Where the next session finds it."""
    dispatcher, stub = served.stub("services/dispatcher"), served.stub()
    await dispatcher.OpenMailbox(OPEN)
    await say(served.attempt("nc-a-1"), "still there?")
    await dispatcher.CloseMailbox(gateway.CloseMailboxRequest(request_id="close", attempt_id="nc-a-1"))
    (asked,) = await listed(stub)
    await stub.Reply(gateway.ReplyRequest(request_id="r", message_id=asked.id, text="yes"))
    assert len(list((served.mailbox().path / "input").iterdir())) == 1


async def test_a_reply_that_was_promised_arrives_after_a_crash_and_one_that_was_not_does_not(world: Any) -> None:
    """The row decides."""
    async with world.running():
        world.gateway.replies.deliver = lambda message: None  # it died right after the commit
        await world.stub().Reply(gateway.ReplyRequest(request_id="r", group="developer", text="promised"))
        world.gateway.replies.stage(
            world.box("developer").mailbox.origin, "not promised", "", "operator:founder"
        )  # and right before another
        assert len(list((world.home / "ipc" / ".outgoing").iterdir())) == 2
    async with world.running():
        (path,) = (world.mailbox().path / "input").iterdir()
        assert json.loads(path.read_text())["text"] == "promised"
        assert list((world.home / "ipc" / ".outgoing").iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "", "group": "developer"}, "INVALID_FIELD"),
        ({"text": "x"}, "INVALID_FIELD"),
        ({"text": "x", "group": "developer", "message_id": "m"}, "INVALID_FIELD"),
        ({"text": "x", "group": "../x"}, "INVALID_FIELD"),
        ({"text": "x", "group": "nobody"}, "MAILBOX_NOT_FOUND"),
        ({"text": "x", "message_id": "m"}, "MESSAGE_NOT_FOUND"),
    ],
)
async def test_a_reply_to_nobody_is_refused(served: Any, fields: dict[str, str], reason: str) -> None:
    """And leaves nothing behind."""
    with pytest.raises(NanoclawError) as refusal:
        await served.stub().Reply(gateway.ReplyRequest(request_id="r", **fields))
    assert refusal.value.reason == reason
    assert list((served.home / "ipc" / ".outgoing").iterdir()) == []


async def test_a_message_is_no_way_to_make_requests(served: Any) -> None:
    """What lies in messages/ is words, whatever it says."""
    agent = served.mailbox()
    name = agent.write({"type": "gov_create", "title": "t", "task_type": "BUG"}, folder="messages")
    assert (await agent.answer(name))["code"] == "UNKNOWN_TYPE"
    assert not served.governance.tasks
