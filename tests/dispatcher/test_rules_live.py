"""The four rules, live: real governance, a real dispatcher, agents that act as the gateway lets them."""

import json
from dataclasses import replace
from typing import Any

import pytest
import world as w

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_agent.prompt import Assignment
from nanoclaw_dispatcher.groups import Groups


async def test_a_gated_task_goes_from_ready_to_done(world: Any) -> None:
    """Rules 1 and 2: the assigned group executes, the gate's group approves and finishes."""
    await world.dispatcher()
    await world.operator.ready("t1", gate="GATE_SECURITY")
    await world.at("t1", "DONE")
    await world.quiet()
    first, second = world.dispatches("t1")
    assert first["dispatch_key"] == "t1:READY->DOING:v3"
    assert (first["rule"], first["group_name"], first["state"]) == (1, "developer", "DONE")
    assert second["dispatch_key"] == "t1:REVIEW->APPROVAL:v5"
    assert (second["rule"], second["group_name"], second["state"]) == (2, "security", "DONE")
    assert [row["state"] for row in world.attempts()] == ["DONE", "DONE"]
    assert sorted(world.gateway.closed) == sorted(row["id"] for row in world.attempts())
    assert [row["action"] for row in world.log() if row["subject"] == first["id"]] == ["enqueue", "start", "end"]


async def test_an_agent_is_told_who_it_is_and_what_to_do(world: Any) -> None:
    """The line on stdin is the one of the wire; the reviewer's has the context pack and its contract."""
    seen: dict[str, dict[str, Any]] = {}

    async def executor(run: Any, hands: Any) -> int:
        seen["executor"] = json.loads(run.spec.stdin)
        return await w.hand_in(run, hands)

    async def reviewer(run: Any, hands: Any) -> int:
        seen["reviewer"] = json.loads(run.spec.stdin)
        seen["mailbox"] = {"path": str(run.spec.mailbox), "trace": run.spec.traceparent}
        return await w.approve(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor, "main": reviewer})
    await world.dispatcher()
    task = await world.operator.ready("t1", gate="GATE_PRODUCT")
    await world.at("t1", "DONE")
    opening = seen["executor"]
    prompt = opening.pop("prompt")
    assert opening == {
        "groupFolder": "developer",
        "chatJid": "group:developer",
        "isMain": False,
        "taskId": "t1",
        "attempt": world.attempts()[0]["id"],
    }
    told = Assignment.parse(prompt)
    assert told is not None
    assert (told.role, told.task_id, told.gate, told.reason) == ("executor", "t1", "Product", "")
    assert (told.task["state"], told.task["title"], told.task["task_type"]) == ("DOING", "Do t1", "BUG")
    told = Assignment.parse(seen["reviewer"]["prompt"])
    assert told is not None
    assert told.role == "reviewer"
    assert told.context["execution_summary"] == "done"
    assert seen["reviewer"]["isMain"] is True
    assert seen["mailbox"]["path"].startswith(str(world.home / "attempts" / world.attempts()[1]["id"]))
    assert seen["mailbox"]["trace"].split("-")[1] == task.traceparent.split("-")[1]


async def test_what_is_sent_back_is_worked_on_again_with_the_reason(world: Any) -> None:
    """Rules 3 and 4: changes requested lead to DOING, and the same group is started with the reviewer's words."""
    reasons: list[str] = []

    async def executor(run: Any, hands: Any) -> int:
        told = Assignment.parse(json.loads(run.spec.stdin)["prompt"])
        assert told is not None
        reasons.append(told.reason)
        return await w.hand_in(run, hands)

    async def reviewer(run: Any, hands: Any) -> int:
        if len(reasons) == 1:
            await hands.move(run.spec.task_id, "REVIEW", "the tests are missing")
            return 0
        return await w.approve(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor, "security": reviewer})
    await world.dispatcher()
    await world.operator.ready("t1", gate="GATE_SECURITY")
    task = await world.at("t1", "DONE")
    assert reasons == ["", "the tests are missing"]
    assert task.rework_count == 1
    await world.quiet()
    assert [row["rule"] for row in world.dispatches()] == [1, 2, 4, 2]
    assert world.dispatches()[2]["dispatch_key"].startswith("t1:DOING:v")


@pytest.mark.parametrize("reason", ["again", "x" * 65536], ids=["short", "longest"])
async def test_a_fourth_round_of_rework_blocks_the_task(world: Any, reason: str) -> None:
    """More than three rounds: somebody has to look, however much the reviewer had to say."""

    async def reviewer(run: Any, hands: Any) -> int:
        await hands.move(run.spec.task_id, "REVIEW", reason)
        return 0

    world.fake.agent = w.by_group(world, {"developer": w.hand_in, "security": reviewer})
    await world.dispatcher()
    await world.operator.ready("t1", gate="GATE_SECURITY")
    task = await world.at("t1", "BLOCKED")
    assert task.state_reason.startswith("REWORK_LIMIT")
    assert task.rework_count == 3
    await world.quiet()
    assert [row["rule"] for row in world.dispatches()] == [1, 2, 4, 2, 4, 2, 4, 2]


async def test_an_unblocked_task_is_taken_up_again(world: Any) -> None:
    """Rule 4 after BLOCKED→DOING: with the words of who unblocked it."""
    reasons: list[str] = []

    async def executor(run: Any, hands: Any) -> int:
        told = Assignment.parse(json.loads(run.spec.stdin)["prompt"])
        assert told is not None
        reasons.append(told.reason)
        if len(reasons) == 1:
            await hands.move(run.spec.task_id, "BLOCKED", "which ledger?")
            return 0
        return await w.hand_in(run, hands)

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "BLOCKED")
    await world.operator.move("t1", "DOING", "the one of 2026")
    await world.at("t1", "REVIEW")
    assert reasons == ["", "the one of 2026"]
    await world.quiet()
    assert [row["state"] for row in world.dispatches()] == ["DONE", "DONE"]


async def test_nothing_is_started_for_a_person_s_gate_but_one_notice_is_given(world: Any) -> None:
    """A human gate notifies once, however often it is looked at."""
    one = await world.dispatcher()
    await world.operator.ready("t1", gate="GATE_SECURITY", human_gate=True)
    await world.at("t1", "REVIEW")
    await world.quiet()
    for _ in range(3):
        await one.engine.upkeep.sweep()
    notices = [row for row in world.log() if row["action"] == "notify"]
    assert [(row["task_id"], row["subject"]) for row in notices] == [("t1", "HUMAN_GATE")]
    assert len(world.dispatches()) == 1


async def test_a_task_without_a_gate_waits_for_who_finishes_it(world: Any) -> None:
    """Gate None: nothing is started, nothing is said."""
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    await one.engine.upkeep.sweep()
    assert len(world.dispatches()) == 1
    assert not [row for row in world.log() if row["action"] == "notify"]


async def test_an_unknown_group_blocks_the_task(world: Any) -> None:
    """Fail closed: what nobody runs is said aloud."""
    await world.dispatcher()
    await world.operator.ready("t1", assigned_group="ghosts")
    task = await world.at("t1", "BLOCKED")
    assert task.state_reason.startswith("UNKNOWN_GROUP")
    assert world.dispatches() == []


async def test_a_paused_product_s_task_waits_and_starts_when_it_is_active_again(world: Any) -> None:
    """Logged once, not at every sweep; the product's own fact wakes the dispatcher."""
    one = await world.dispatcher()
    await world.operator.product("p1")
    await world.operator.product("p1", "PAUSED")
    await world.operator.ready("t1", product_id="p1")
    await world.until(lambda: any(row["action"] == "notify" for row in world.log()))
    for _ in range(3):
        await one.engine.upkeep.sweep()
    assert [row["subject"] for row in world.log()] == ["PRODUCT_NOT_ACTIVE"]
    assert world.state_of("t1") == "READY"
    await world.operator.product("p1", "ACTIVE")
    await world.at("t1", "REVIEW")


async def test_a_claim_refused_for_a_product_paused_meanwhile_only_waits(world: Any) -> None:
    """The dispatch keeps its key, nothing counts as failed, and it goes on when the product does."""
    one = await world.dispatcher()
    await world.operator.product("p1")

    async def pause() -> None:
        await world.operator.product("p1", "PAUSED")

    one.governance.before["TransitionTask"] = pause
    await world.operator.ready("t1", product_id="p1")
    await world.until(lambda: world.attempts() and world.attempts()[0]["state"] == "FAILED")
    (dispatch,) = world.dispatches()
    assert (dispatch["state"], dispatch["failures"]) == ("ENQUEUED", 0)
    assert world.fake.runs == []
    await world.operator.product("p1", "ACTIVE")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [row["number"] for row in world.attempts()] == [1, 2]
    assert world.dispatches()[0]["state"] == "DONE"


async def test_a_task_that_somebody_takes_by_hand_is_left_to_them(world: Any) -> None:
    """The claim loses, the dispatch is CANCELLED with the reason, and nobody is started beside the one who took it."""
    one = await world.dispatcher()

    async def take() -> None:
        await world.operator.move("t1", "DOING")

    one.governance.before["TransitionTask"] = take
    await world.operator.ready("t1")
    await world.until(lambda: [row["state"] for row in world.dispatches()] == ["CANCELLED"])
    assert world.dispatches()[0]["code"] == "CLAIM_REFUSED"
    await one.engine.upkeep.sweep()
    await world.quiet()
    assert world.fake.runs == []
    assert world.state_of("t1") == "DOING"


async def test_a_change_between_decision_and_claim_only_costs_a_key(world: Any) -> None:
    """Evidence added in between makes the claim stale: it is decided anew for the new version."""
    one = await world.dispatcher()

    async def change() -> None:
        await world.operator.add_evidence("t1")

    one.governance.before["TransitionTask"] = change
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [(row["dispatch_key"], row["state"]) for row in world.dispatches()] == [
        ("t1:READY->DOING:v3", "CANCELLED"),
        ("t1:READY->DOING:v4", "DONE"),
    ]
    assert len(world.fake.runs) == 1


async def test_a_reassigned_task_is_taken_from_one_group_and_given_to_the_other(world: Any) -> None:
    """The old attempt is stopped, its dispatch withdrawn; the new group works on from there."""

    async def stuck(run: Any, hands: Any) -> int:
        return await w.fake_runtime.idle_agent(run)

    world.fake.agent = w.by_group(world, {"developer": stuck, "writer": w.hand_in})
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.fake.running)
    await world.operator.assign("t1", "writer")
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [(row["group_name"], row["state"], row["code"]) for row in world.dispatches()] == [
        ("developer", "CANCELLED", "WITHDRAWN"),
        ("writer", "DONE", ""),
    ]
    assert world.attempts()[0]["outcome"] == "CANCELLED"


async def test_an_agent_whose_task_is_blocked_by_a_person_is_stopped(world: Any) -> None:
    """The task moved away under it."""
    world.fake.agent = w.fake_runtime.idle_agent
    await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.fake.running)
    await world.operator.move("t1", "BLOCKED", "stop that")
    await world.quiet()
    assert world.fake.running == []
    assert [(row["state"], row["code"]) for row in world.dispatches()] == [("CANCELLED", "WITHDRAWN")]
    assert world.state_of("t1") == "BLOCKED"


async def test_an_agent_that_moved_its_task_may_finish_but_not_for_ever(world: Any) -> None:
    """It is told that no more will come, and stopped when its time is over; its dispatch is DONE all the same."""

    async def lingering(run: Any, hands: Any) -> int:
        await w.hand_in(run, hands)
        return await w.fake_runtime.idle_agent(run)

    world.fake.agent = w.by_group(world, {"developer": lingering})
    await world.dispatcher(linger_seconds=0.2)
    await world.operator.ready("t1")
    await world.at("t1", "REVIEW")
    await world.quiet()
    (attempt,) = world.attempts()
    assert (attempt["state"], attempt["outcome"]) == ("DONE", "EXITED")
    assert world.dispatches()[0]["state"] == "DONE"
    assert (world.home / "attempts" / attempt["id"] / "ipc" / "input" / "_close").exists()


async def test_an_agent_that_moved_its_task_is_let_finish_though_a_person_moved_it_on_at_once(world: Any) -> None:
    """Who answers a block within a moment must not have the agent killed that is still writing down why it blocked."""
    go, unread = w.asyncio.Event(), w.asyncio.Event()

    async def asking(run: Any, hands: Any) -> int:
        if len(world.fake.runs) > 1:
            return await w.hand_in(run, hands)
        one.governance.before["GetTask"] = unread.wait
        await hands.move(run.spec.task_id, "BLOCKED", "which one?")
        await world.operator.move(run.spec.task_id, "DOING", "that one")
        await go.wait()
        return 0

    world.fake.agent = w.by_group(world, {"developer": asking})
    one = await world.dispatcher()
    await world.operator.ready("t1")
    head = w.governance_log.head
    await world.until(lambda: world.state_of("t1") == "DOING" and world.governance_database.read(head).seq >= 7)
    await world.until(lambda: one.engine.follower.place.seq == world.governance_database.read(head).seq)
    unread.set()  # only now it reads the task, which is DOING again
    await world.until(lambda: (world.home / "attempts" / world.fake.runs[0] / "ipc" / "input" / "_close").exists())
    assert not world.fake.attempts[world.fake.runs[0]].stopped
    go.set()
    await world.at("t1", "REVIEW")
    await world.quiet()
    assert [(row["outcome"], row["exit_code"]) for row in world.attempts()] == [("EXITED", 0)] * 2
    assert [(row["rule"], row["state"]) for row in world.dispatches()] == [(1, "DONE"), (4, "DONE")]


async def test_a_reviewer_is_started_for_a_task_that_was_moved_to_approval_by_hand(world: Any) -> None:
    """The gate is still the gate's group's to decide, whoever moved the task in front of it."""
    await world.operator.ready("t1", gate="GATE_SECURITY")
    await world.operator.move("t1", "DOING")
    await world.hands("service:gateway", "developer").move("t1", "REVIEW")
    await world.operator.move("t1", "APPROVAL")
    await world.dispatcher()
    await world.at("t1", "DONE")
    await world.quiet()
    assert [(row["rule"], row["to_state"]) for row in world.dispatches()] == [(2, "")]


async def test_a_group_s_session_is_resumed_by_its_next_agent(world: Any) -> None:
    """`newSessionId` between the markers comes back as `sessionId`."""
    sessions: list[str] = []

    async def executor(run: Any, hands: Any) -> int:
        sessions.append(json.loads(run.spec.stdin).get("sessionId", ""))
        await hands.move(run.spec.task_id, "REVIEW", "done")
        result = json.dumps({"status": "success", "result": "ok", "newSessionId": "s-1"})
        run.write(f"---NANOCLAW_OUTPUT_START---\n{result}\n---NANOCLAW_OUTPUT_END---\n")
        return 0

    world.fake.agent = w.by_group(world, {"developer": executor})
    await world.dispatcher()
    for task_id in ("t1", "t2"):
        await world.operator.ready(task_id)
        await world.at(task_id, "REVIEW")
        await world.quiet()
    assert sessions == ["", "s-1"]


@pytest.mark.parametrize("hard", [False, True])
async def test_work_in_progress_warns_or_holds(world: Any, hard: bool) -> None:
    """Past its limit a group is warned about; where the limit is hard, nothing further is begun for it."""
    developer = replace(world.groups.get("developer"), wip_limit=1, wip_hard=hard)
    world.groups = Groups({**world.groups.by_name, "developer": developer})
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher()
    for number in range(3):
        await world.operator.ready(f"t{number}")
    await world.until(lambda: len(world.fake.running) == (1 if hard else 3))
    await one.engine.upkeep.sweep()
    assert len(world.fake.running) == (1 if hard else 3)
    if hard:
        await world.operator.move(world.dispatches()[0]["task_id"], "BLOCKED")
        await world.until(lambda: len(world.fake.runs) == 2)


def test_every_state_of_governance_is_known() -> None:
    """A state that governance adds must be thought about here."""
    from nanoclaw_dispatcher.task import TaskState

    assert {f"TASK_STATE_{state}" for state in TaskState} == set(pb.TaskState.keys()) - {"TASK_STATE_UNSPECIFIED"}
