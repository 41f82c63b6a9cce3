"""Requests as files, from the agent's side: each type that is served, and what is answered."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_ipc_gateway.request import UNSERVED
from nanoclaw_ipc_gateway.words import GATES, STATES, TASK_TYPES, as_written

CREATE = {"type": "gov_create", "title": "Fix login", "task_type": "BUG", "assigned_group": "developer"}


async def test_the_files_of_an_existing_agent_are_accepted_as_they_are(served: Any, wire: Path) -> None:
    """The wire format is theirs to the letter, the signature over the raw text included."""
    agent = served.mailbox()
    created = await agent.ask((wire / "gov_create.json").read_bytes(), "1795231475292-abc123.json")
    assert (created["request_id"], created["status"]) == ("1795231475292-abc123", "executed")
    assert created["data"]["description"] == "line1\nline2"
    assert (created["data"]["state"], created["data"]["gate"], created["data"]["version"]) == ("INBOX", "Security", 1)

    served.governance.tasks["t1"] = governance.Task(id="t1", version=3, state=governance.TASK_STATE_DOING)
    moved = await agent.ask((wire / "gov_transition.json").read_bytes(), "1795231475293-abc123.json")
    assert (moved["status"], moved["data"]["state"], moved["data"]["version"]) == ("executed", "REVIEW", 4)
    assert served.governance.tasks["t1"].state_reason == "done: 50% faster"


async def test_an_ext_call_of_an_existing_agent_arrives_signed_and_in_its_own_digits(world: Any, wire: Path) -> None:
    """The broker gets the parameters as they were written, not as Python would write them."""
    async with world.running():
        pass
    agent = world.mailbox()
    (agent.path / ".ipc_secret").write_text((wire / "ipc_secret").read_text())
    async with world.running():
        raw = (wire / "ext_call.json").read_bytes()
        agent.write(raw)
        answer = await agent.answer("ext-1795231475296-2p8lfu")
    (request,) = world.broker.requests
    assert request.attestation.signature == broker.Attestation.SIGNATURE_VALID
    assert '"big":12345678901234567000,"tiny":1e-7,"neg":0,"arr":[],"obj":{}' in request.params_json
    assert (request.provider, request.action, request.task_id, request.idempotency_key) == (
        "github",
        "create_issue",
        "t1",
        "k-1",
    )
    assert answer["status"] == "executed"
    assert answer["data"]["title"].startswith("Ünï")
    assert answer["facts"]["level"] == "L1"
    assert answer.keys() >= {"request_id", "status", "data", "summary", "timestamp", "code", "facts", "next_steps"}


async def test_calls_that_wait_are_read_to_the_end_of_the_list(served: Any) -> None:
    """A page shows what concerns the group, so one that shows nothing is not the end; an answer stays small."""
    waiting = [broker.PendingCall(call=broker.CallRecord(call_id=f"c{number}")) for number in range(120)]
    agent = served.mailbox()
    served.broker.pending = [[], waiting[:1], [], waiting[1:3]]
    answer = await agent.ask({"type": "ext_pending"})
    assert [one["call_id"] for one in answer["data"]["calls"]] == ["c0", "c1", "c2"]
    assert answer["summary"] == "3 calls wait for votes"
    served.broker.pending = [waiting[:30], waiting[30:60], waiting[60:90], waiting[90:]]
    answer = await agent.ask({"type": "ext_pending"})
    assert len(answer["data"]["calls"]) == 60
    assert answer["summary"] == "60 calls wait for votes, and more: name a task_id"


async def test_a_missing_or_wrong_signature_is_told_to_the_broker(served: Any) -> None:
    """The broker denies and records it; the gateway only says what it saw."""
    agent = served.mailbox()
    call = {"type": "ext_call", "request_id": "e1", "provider": "json", "action": "transform", "params": {}}
    assert (await agent.ask(call))["code"] == "BAD_SIGNATURE"
    assert served.broker.requests[-1].attestation.signature == broker.Attestation.SIGNATURE_MISSING
    forged = agent.sign({**call, "request_id": "e2"}) | {"params": {"x": 1}}
    denied = await agent.ask(forged)
    assert (denied["status"], denied["next_steps"]) == ("denied", ["sign it"])
    assert served.broker.requests[-1].attestation.signature == broker.Attestation.SIGNATURE_WRONG


async def test_the_directory_is_the_identity(served: Any) -> None:
    """What a file claims about its sender is ignored."""
    claims = {"group": "main", "groupFolder": "main", "isMain": True, "attempt": "nc-x", "createdBy": "main"}
    await served.mailbox("security").ask({**CREATE, **claims})
    (call,) = served.governance.faults.calls
    assert call[:3] == ("CreateTask", "group:security", "")


async def test_tasks_are_approved_and_assigned_and_access_is_granted_and_revoked(served: Any) -> None:
    """The rest of what is served."""
    main = served.mailbox("main")
    task_id = (await main.ask({**CREATE, "id": "t-7"}))["data"]["id"]
    assigned = await main.ask({"type": "gov_assign", "taskId": task_id, "assigned_group": "security", "executor": "e"})
    assert (assigned["data"]["assigned_group"], assigned["data"]["executor"]) == ("security", "e")
    approved = await main.ask({"type": "gov_approve", "taskId": task_id, "gate_type": "Product", "notes": "n"})
    assert approved["data"]["approval"]["approved_by"] == "group:main"
    granted = await main.ask(
        {"type": "ext_grant", "group_folder": "developer", "provider": "json", "access_level": 1,
         "allowed_actions": None, "denied_actions": ["x"]}
    )  # fmt: skip
    assert (granted["data"]["access_level"], granted["data"]["denied_actions"]) == (1, ["x"])
    revoke = {"type": "ext_revoke", "group_folder": "developer", "provider": "json"}
    assert (await main.ask(revoke))["data"]["changed"] is True
    assert (await main.ask(revoke))["data"]["changed"] is False


async def test_a_type_that_nobody_serves_is_answered_so(served: Any) -> None:
    """Not quarantined, and not left without an answer."""
    agent = served.mailbox()
    for kind in sorted(UNSERVED):
        answer = await agent.ask({"type": kind, "prompt": "x", "request_id": f"r-{kind}"})
        assert (answer["status"], answer["code"], answer["facts"]) == ("failed", "NOT_SUPPORTED", {"type": kind})
    assert not list((served.home / "ipc" / "errors").iterdir())


async def test_a_refusal_says_why_and_what_would_help(served: Any) -> None:
    """Code, message, facts and next steps of governance reach the agent."""
    agent = served.mailbox()
    await agent.ask({**CREATE, "id": "t-1"})
    denied = await agent.ask({"type": "gov_transition", "taskId": "t-1", "toState": "DONE", "reason": "forbidden"})
    assert (denied["status"], denied["code"]) == ("denied", "NOT_PERMITTED")
    assert (denied["error"], denied["next_steps"]) == ("this edge is not yours", ["ask main"])
    stale = await agent.ask({"type": "gov_transition", "taskId": "t-1", "toState": "DOING", "expectedVersion": 9})
    assert (stale["status"], stale["code"], stale["facts"]["actual"]) == ("failed", "STALE_VERSION", "1")
    missing = await agent.ask({"type": "gov_transition", "taskId": "t-404", "toState": "DOING"})
    assert (missing["status"], missing["code"]) == ("failed", "TASK_NOT_FOUND")
    assert missing["error"] == "taskId: there is no task 't-404'", "as the file has it"


def test_hints_come_in_the_words_of_files() -> None:
    """What governance says of its own enums and fields can be pasted into the next request."""
    said = "choose one of TASK_STATE_READY, GATE_REVOPS, TASK_TYPE_SECURITY, or send to_state of task_id t-TASK"
    assert as_written(said, "gov_transition") == (
        "choose one of READY, RevOps, SECURITY, or send toState of taskId t-TASK"
    )
    assert as_written("task_id: ACCESS_LEVEL_L2 or PRIORITY_P1", "ext_call") == "task_id: 2 or P1"
    for enum, words in ((governance.TaskState, STATES), (governance.TaskType, TASK_TYPES), (governance.Gate, GATES)):
        for word, value in words.items():
            assert as_written(enum.Name(value), "gov_create") == word


async def test_all_that_is_wrong_with_a_request_is_said_at_once(served: Any) -> None:
    """Under its request_id where that is fit, else under its file's name."""
    agent = served.mailbox()
    wrong = await agent.ask({"type": "gov_transition", "toState": "review", "request_id": "r-1"})
    assert (wrong["status"], wrong["code"]) == ("failed", "INVALID_FIELD")
    assert len(wrong["next_steps"]) == 2
    name = agent.write({**CREATE, "request_id": "../../escape"}, "a-name.json")
    unfit = await agent.answer(name)
    assert (unfit["request_id"], unfit["code"]) == ("a-name", "INVALID_FIELD")
    assert not served.governance.tasks


async def test_the_same_request_id_is_done_once(served: Any) -> None:
    """An agent that heard nothing may ask again; a replayed file changes nothing."""
    agent = served.mailbox()
    first = await agent.ask({**CREATE, "request_id": "r-1", "timestamp": "2026-11-21T03:24:35.292Z"})
    again = await agent.ask({**CREATE, "request_id": "r-1", "timestamp": "2026-11-21T03:24:36.292Z"})
    assert again["data"] == first["data"]
    other = await agent.ask({**CREATE, "request_id": "r-1", "title": "Another"})
    for _ in range(1000):
        if other["code"] != "OK":
            break
        await asyncio.sleep(0.005)
        other = json.loads((agent.path / "responses" / "r-1.json").read_text())
    assert other["code"] == "REQUEST_ID_REUSED"
    assert len(served.governance.tasks) == 1


async def test_requests_about_one_task_are_worked_on_in_the_order_of_writing(served: Any) -> None:
    """An agent need not wait for one answer before it writes the next request."""
    agent = served.mailbox()
    names = [agent.write({**CREATE, "id": "t-1"})]
    states = ["TRIAGED", "READY", "DOING", "REVIEW"] * 5
    names += [
        agent.write({"type": "gov_transition", "taskId": "t-1", "toState": state, "expectedVersion": number + 1})
        for number, state in enumerate(states)
    ]
    answers = [await agent.answer(name) for name in names]
    assert [answer["status"] for answer in answers] == ["executed"] * 21
    assert [answer["data"]["version"] for answer in answers] == list(range(1, 22))


async def test_a_slow_request_is_not_overtaken_by_the_next_about_its_task(served: Any) -> None:
    """But one about another task need not wait for it."""
    second = asyncio.Event()

    async def linger(rpc: str) -> None:
        if len(served.governance.faults.calls) > 1:
            second.set()
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(second.wait(), 0.3)

    served.governance.faults.before = linger
    agent = served.mailbox()
    create = agent.write({**CREATE, "id": "t-1"})
    move = agent.write({"type": "gov_transition", "taskId": "t-1", "toState": "TRIAGED"})
    assert (await agent.answer(move))["status"] == "executed"
    assert (await agent.answer(create))["status"] == "executed"
    served.governance.faults.calls.clear()
    second.clear()
    slow, other = agent.write({**CREATE, "id": "t-2"}), agent.write({**CREATE, "id": "t-3"})
    assert [(await agent.answer(name))["status"] for name in (other, slow)] == ["executed", "executed"]
    assert second.is_set()


async def test_a_slow_call_holds_up_nobody(served: Any) -> None:
    """Neither the same agent's requests to governance nor anybody else's."""
    hold = asyncio.Event()

    async def wait(rpc: str) -> None:
        await hold.wait()

    served.broker.faults.before = wait
    agent = served.mailbox()
    calls = [
        agent.write(
            agent.sign({"type": "ext_call", "request_id": f"e{n}", "provider": "p", "action": "a", "params": {}})
        )
        for n in range(30)
    ]
    assert (await agent.ask(CREATE))["status"] == "executed"
    assert (await served.mailbox("main").ask(CREATE))["status"] == "executed"
    hold.set()
    for number in range(len(calls)):
        assert (await agent.answer(f"e{number}"))["status"] == "executed"


async def test_what_takes_too_long_is_answered_as_a_timeout(world: Any) -> None:
    """Before the agent gives up; and it may ask again."""
    hold = asyncio.Event()

    async def wait(rpc: str) -> None:
        await hold.wait()

    world.broker.faults.before = world.governance.faults.before = wait
    async with world.running(answer_seconds=0.3):
        agent = world.mailbox()
        call = agent.sign({"type": "ext_call", "request_id": "e1", "provider": "p", "action": "a", "params": {}})
        answer = await agent.ask(call)
        assert answer["status"] == "timeout"
        assert answer["next_steps"]
        assert (await agent.ask(CREATE))["code"] == "DEADLINE_EXCEEDED"
        hold.set()


async def test_an_outage_of_governance_is_waited_out(served: Any) -> None:
    """A restart of the other side costs the agent time, not its request."""
    left = 5

    async def fail(rpc: str) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            raise NanoclawError(Kind.UNAVAILABLE, "STARTING", "not yet")

    served.governance.faults.before = fail
    assert (await served.mailbox().ask(CREATE))["status"] == "executed"
    assert served.governance.faults.effects == ["CreateTask"]
    assert len({call[3] for call in served.governance.faults.calls}) == 1


async def test_a_defect_of_the_far_side_is_answered_without_its_text(served: Any) -> None:
    """INTERNAL carries an opaque id."""

    async def fail(rpc: str) -> None:
        raise RuntimeError("secret detail")

    served.governance.faults.before = fail
    answer = await served.mailbox().ask(CREATE)
    assert (answer["status"], answer["code"]) == ("failed", "INTERNAL")
    assert "secret" not in json.dumps(answer)
