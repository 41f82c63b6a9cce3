"""Requests put in by hand, and files taken in again from the quarantine."""

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc.page import encode

CREATE = {"type": "gov_create", "title": "t", "task_type": "BUG"}


def submit(content: Any, request_id: str = "s-1", **mailbox: str) -> gateway.SubmitRequest:
    """A request for a mailbox."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return gateway.SubmitRequest(request_id=request_id, content=raw, **(mailbox or {"group": "developer"}))


async def test_a_submitted_request_is_answered_as_its_file_would_be(served: Any) -> None:
    """In the group's name, with no file left anywhere, and the log tells who submitted it."""
    answer = json.loads((await served.stub().Submit(submit({**CREATE, "request_id": "r-1"}))).response_json)
    assert (answer["status"], answer["request_id"]) == ("executed", "r-1")
    assert served.governance.faults.calls[0][1] == "group:developer"
    assert list((served.mailbox().path / "responses").iterdir()) == []
    assert list((served.home / "ipc" / ".claimed").iterdir()) == []
    with closing(sqlite3.connect(served.home / "store" / "nanoclaw.db", isolation_level=None)) as connection:
        submitters = connection.execute("SELECT principal FROM ipc_activities WHERE action = 'submit'").fetchall()
    connection.close()
    assert submitters == [("operator:founder",)]


async def test_a_repeated_submission_is_done_once(served: Any) -> None:
    """Also side by side; with another content it is refused."""
    stub = served.stub()
    first = await stub.Submit(submit(CREATE))
    assert await stub.Submit(submit(CREATE)) == first
    both = await asyncio.gather(stub.Submit(submit(CREATE, "s-2")), stub.Submit(submit(CREATE, "s-2")))
    assert both[0] == both[1]
    assert len(served.governance.tasks) == 2
    for other in (submit({**CREATE, "title": "other"}), submit(CREATE, group="main")):
        with pytest.raises(NanoclawError) as refusal:
            await stub.Submit(other)
        assert refusal.value.reason == "REQUEST_ID_REUSED"


async def test_a_refused_submission_is_decided_again(served: Any) -> None:
    """Only what was done is repeated from the record."""
    stub = served.stub()
    move = {"type": "gov_transition", "taskId": "t-1", "toState": "READY"}
    assert json.loads((await stub.Submit(submit(move))).response_json)["code"] == "TASK_NOT_FOUND"
    await stub.Submit(submit({**CREATE, "id": "t-1"}, "s-2"))
    assert json.loads((await stub.Submit(submit(move))).response_json)["status"] == "executed"


@pytest.mark.parametrize(
    "content",
    [
        {"type": "gov_approve", "taskId": "t-1", "gate_type": "Security"},
        {"type": "gov_transition", "taskId": "t-1", "toState": "DONE"},
        {"type": "ext_approve", "call_id": "c", "params_digest": "d"},
        {"type": "ext_reject", "call_id": "c", "params_digest": "d"},
    ],
)
async def test_nobody_approves_or_finishes_in_a_groups_name(served: Any, content: dict[str, Any]) -> None:
    """An operator who worked on a task could otherwise judge it as somebody else."""
    with pytest.raises(NanoclawError) as refusal:
        await served.stub().Submit(submit(content))
    assert refusal.value.reason == "SUBMIT_MAY_NOT_APPROVE"
    assert not served.governance.faults.calls


async def test_a_mailbox_that_is_not_there_takes_no_submission(served: Any) -> None:
    """Unknown, closed, or another group's."""
    stub, dispatcher = served.stub(), served.stub("services/dispatcher")
    opening = gateway.OpenMailboxRequest(request_id="o", attempt_id="nc-a-1", group="developer", fence=1)
    await dispatcher.OpenMailbox(opening)
    assert "executed" in (await stub.Submit(submit(CREATE, attempt_id="nc-a-1"))).response_json
    assert served.governance.faults.calls[-1][1:3] == ("group:developer", "nc-a-1")
    await dispatcher.CloseMailbox(gateway.CloseMailboxRequest(request_id="c", attempt_id="nc-a-1"))
    for mailbox, reason in (
        ({"group": "nobody"}, "MAILBOX_NOT_FOUND"),
        ({"attempt_id": "nc-b-1"}, "MAILBOX_NOT_FOUND"),
        ({"attempt_id": "nc-a-1"}, "MAILBOX_CLOSED"),
        ({"attempt_id": "nc-a-1", "group": "main"}, "INVALID_FIELD"),
    ):
        with pytest.raises(NanoclawError) as refusal:
            await stub.Submit(submit(CREATE, "s-9", **mailbox))
        assert refusal.value.reason == reason


async def test_a_submission_that_is_no_request_is_quarantined_like_a_file(served: Any) -> None:
    """The same checks."""
    answer = json.loads((await served.stub().Submit(submit(b"[]"))).response_json)
    assert answer["code"] == "NOT_AN_OBJECT"
    assert len((await served.stub().ListQuarantine(gateway.ListQuarantineRequest())).files) == 1


async def quarantine(served: Any, raw: bytes, name: str = "bad.json") -> Any:
    """A file that was quarantined."""
    await served.mailbox().ask(raw, name)
    return (await served.stub().ListQuarantine(gateway.ListQuarantineRequest())).files[0]


async def test_a_mended_file_is_taken_in_from_the_quarantine(served: Any) -> None:
    """As what it is now, in the name of the mailbox that it came from; and no second time."""
    stub = served.stub()
    file = await quarantine(served, b'{"type":"gov_create"')
    kept = served.home / "ipc" / "errors" / f"{file.id}.json"
    kept.write_text(json.dumps(CREATE))
    request = gateway.RetryQuarantinedRequest(request_id="q", id=file.id)
    answer = json.loads((await stub.RetryQuarantined(request)).response_json)
    assert (answer["status"], answer["request_id"]) == ("executed", "bad")
    assert json.loads((served.mailbox().path / "responses" / "bad.json").read_text()) == answer
    assert served.governance.faults.calls[0][1] == "group:developer"
    assert not kept.exists()
    assert not (await stub.ListQuarantine(gateway.ListQuarantineRequest())).files
    assert json.loads((await stub.RetryQuarantined(request)).response_json) == answer
    with pytest.raises(NanoclawError) as refusal:
        await stub.RetryQuarantined(gateway.RetryQuarantinedRequest(request_id="q2", id=file.id))
    assert refusal.value.reason == "QUARANTINED_NOT_FOUND"
    assert len(served.governance.tasks) == 1


async def test_a_file_that_is_still_bad_goes_back(served: Any) -> None:
    """With what is wrong with it now."""
    stub = served.stub()
    file = await quarantine(served, b"[]")
    (served.home / "ipc" / "errors" / f"{file.id}.json").write_bytes(b'{"type":"x"}')
    await stub.RetryQuarantined(gateway.RetryQuarantinedRequest(request_id="q", id=file.id))
    (again,) = (await stub.ListQuarantine(gateway.ListQuarantineRequest())).files
    assert (again.id, again.code) == (file.id, "UNKNOWN_TYPE")
    assert (served.home / "ipc" / "errors" / f"{file.id}.json").read_bytes() == b'{"type":"x"}'


@pytest.mark.parametrize("file_id", ["developer-01ARZ3NDEKTSV4RRFFQ69G5FAV", "../x", "", "main"])
async def test_what_is_not_in_quarantine_can_not_be_retried(served: Any, file_id: str) -> None:
    """No path comes of an id."""
    with pytest.raises(NanoclawError) as refusal:
        await served.stub().RetryQuarantined(gateway.RetryQuarantinedRequest(request_id="q", id=file_id))
    assert refusal.value.reason == ("QUARANTINED_NOT_FOUND" if file_id else "INVALID_FIELD")


async def test_another_groups_name_does_not_open_a_quarantined_file(served: Any) -> None:
    """The group is part of the id."""
    file = await quarantine(served, b"[]")
    with pytest.raises(NanoclawError) as refusal:
        await served.stub().RetryQuarantined(
            gateway.RetryQuarantinedRequest(request_id="q", id=file.id.replace("developer", "main"))
        )
    assert refusal.value.reason == "QUARANTINED_NOT_FOUND"


async def test_of_a_file_that_was_not_read_only_the_record_is_kept(served: Any) -> None:
    """There is nothing to take in again."""
    agent = served.mailbox()
    (agent.path / "tasks" / "link.json").symlink_to("/etc/passwd")
    served.gateway_look("developer")
    await agent.answer("link")
    (file,) = (await served.stub().ListQuarantine(gateway.ListQuarantineRequest())).files
    with pytest.raises(NanoclawError) as refusal:
        await served.stub().RetryQuarantined(gateway.RetryQuarantinedRequest(request_id="q", id=file.id))
    assert refusal.value.reason == "NOT_KEPT"


async def test_the_quarantine_is_listed_page_by_page(served: Any) -> None:
    """Newest first."""
    for number in range(5):
        await served.mailbox().ask(b"[]", f"bad-{number}.json")
    stub = served.stub()
    names, token = [], ""
    while True:
        page = await stub.ListQuarantine(gateway.ListQuarantineRequest(page_size=2, page_token=token))
        names += [file.file_name for file in page.files]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"bad-{number}.json" for number in (4, 3, 2, 1, 0)]
    for foreign in ("forged", encode(7), encode("x", "y")):
        with pytest.raises(NanoclawError) as refusal:
            await stub.ListQuarantine(gateway.ListQuarantineRequest(page_token=foreign))
        assert refusal.value.reason == "PAGE_TOKEN_INVALID"
