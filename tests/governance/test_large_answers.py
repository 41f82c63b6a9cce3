"""Answers fit into a message, whatever agents write: no list is out of reach because some of its rows are large."""

import itertools
from typing import Any

import pytest
from google.protobuf.message import Message

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import NanoclawError
from nanoclaw_governance.edit import MAX_EVIDENCE
from nanoclaw_governance.form import MAX_TEXT
from nanoclaw_rpc import page

LISTS = {"ListTasks": "tasks", "ListActivities": "activities", "ListApprovals": "approvals", "ListProducts": "products"}


async def at_review(client: Any, **fields: Any) -> pb.Task:
    """A task with a gate that is handed in."""
    fields = {"title": "t", "task_type": "BUG", "gate": "SECURITY", "assigned_group": "developer"} | fields
    task = (await client("CreateTask", **fields)).task
    for state in ("TRIAGED", "READY", "DOING", "REVIEW"):
        task = (await client("TransitionTask", task_id=task.id, to_state=state, reason="r")).task
    return task


async def read_all(client: Any, rpc: str) -> list[Message]:
    """Every row of a list, each page no larger than it may be."""
    found: list[Message] = []
    token = ""
    while True:
        answer = await client(rpc, page_size=500, page_token=token)
        rows = getattr(answer, LISTS[rpc])
        assert len(rows) == 1 or sum(row.ByteSize() for row in rows) <= page.MOST_BYTES
        found += rows
        token = answer.next_page_token
        if not token:
            return found


async def test_every_list_is_read_to_its_end_however_large_its_rows_are(service, monkeypatch) -> None:
    """A page ends where it would be too large, its token goes on there, and each row comes once."""
    monkeypatch.setattr(page, "MOST_BYTES", 5000)
    admin, second = service.as_("operator:founder"), service.as_("operator:second")
    large = "x" * 2000
    for number in range(7):
        await admin("CreateProduct", name=f"P{number}", description=large)
        task = await at_review(second, description=large, product=f"P{number}")
        await admin("ApproveGate", task_id=task.id, gate="SECURITY", notes=large)
    facts = (await admin("GetStatus")).head.seq
    for rpc, expected in {"ListTasks": 7, "ListActivities": facts, "ListApprovals": 7, "ListProducts": 7}.items():
        found = await read_all(admin, rpc)
        keys = [row.cursor.seq if isinstance(row, pb.Activity) else row.id for row in found]
        assert (len(found), len(set(keys))) == (expected, expected), rpc


async def test_a_list_of_the_largest_tasks_reaches_the_client(service) -> None:
    """At the sizes that are allowed: more than one message could hold, asked for in one page."""
    admin = service.as_("operator:founder")
    fields = {
        "title": "t",
        "task_type": "BUG",
        "description": "x" * MAX_TEXT,
        "metadata_json": f'{{"a":"{"x" * 65000}"}}',
    }
    made = [(await admin("CreateTask", **fields)).task.id for _ in range(70)]
    assert [task.id for task in await read_all(admin, "ListTasks")] == made
    assert len(await read_all(admin, "ListActivities")) == 70


async def test_a_context_pack_keeps_the_newest_of_what_is_too_large(service, monkeypatch) -> None:
    """A reviewer is started with what fits, and the newest is what counts."""
    admin = service.as_("operator:founder")
    task = await at_review(service.as_("operator:second"))
    for number in range(6):
        await admin("ApproveGate", task_id=task.id, gate="SECURITY", notes=f"{number}" * 2000)
        await service.as_("group:developer")("AddEvidence", task_id=task.id, link=f"https://ci/{number}")
    await admin("ApproveGate", task_id=task.id, gate="SECURITY", notes="the last one")
    monkeypatch.setattr(page, "MOST_BYTES", 8000)
    pack = await admin("GetContextPack", task_id=task.id)
    assert [approval.notes[:1] for approval in pack.approvals] == ["3", "4", "5", "t"]
    assert not pack.approvals[-1].HasField("voided_at")
    assert 0 < len(pack.activities) < 15
    assert pack.activities[-1].action == "approve"
    assert sum(fact.ByteSize() for fact in pack.activities) <= 8000


async def test_what_an_approver_notes_has_a_limit(service) -> None:
    """As every other text; the refusal names the field."""
    admin = service.as_("operator:founder")
    task = await at_review(service.as_("operator:second"))
    with pytest.raises(NanoclawError, match="notes: must have at most 65536 bytes"):
        await admin("ApproveGate", task_id=task.id, gate="SECURITY", notes="x" * (MAX_TEXT + 1))
    assert (await admin("ApproveGate", task_id=task.id, gate="SECURITY", notes="x" * MAX_TEXT)).changed


async def test_a_tasks_evidence_has_a_limit_together(service) -> None:
    """Every answer about a task holds all of it, so that it can always be read and moved on."""
    admin = service.as_("operator:founder")
    task = (await admin("CreateTask", title="t", task_type="BUG", assigned_group="developer")).task
    with pytest.raises(NanoclawError, match=f"more than {MAX_EVIDENCE} bytes") as caught:
        for number in itertools.count():
            await admin("AddEvidence", task_id=task.id, link=f"https://ci/{number}", note="\x01" * 10_000)
    assert (caught.value.reason, number) == ("TOO_MUCH_EVIDENCE", 8)
    assert (await admin("TransitionTask", task_id=task.id, to_state="TRIAGED")).changed
