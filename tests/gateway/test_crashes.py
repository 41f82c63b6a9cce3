"""The gateway dies at any step; the next one finishes, repeats nothing, and leaves nobody without an answer."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_core.errors import Kind, NanoclawError

CREATE = {"type": "gov_create", "title": "once", "task_type": "BUG"}
CALL = {"type": "ext_call", "request_id": "call-1", "provider": "p", "action": "a", "params": {}}


class Stop:
    """Lets a gateway get to one step and no further."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def here(self, *_: Any, **__: Any) -> Any:
        self.reached.set()
        await asyncio.Event().wait()

    def fail(self, *_: Any, **__: Any) -> Any:
        self.reached.set()
        raise OSError("the process is gone")


def after_claim(world: Any, stop: Stop) -> None:
    world.gateway.intake._decider.decide = stop.here


def before_effect(world: Any, stop: Stop) -> None:
    world.governance.faults.before = world.broker.faults.before = stop.here


def after_effect(world: Any, stop: Stop) -> None:
    world.governance.faults.after = world.broker.faults.after = stop.here


def before_record(world: Any, stop: Stop) -> None:
    world.gateway.intake._concluder._save = stop.here


def after_record(world: Any, stop: Stop) -> None:
    concluder = world.gateway.intake._concluder
    concluder.deliver = concluder._deliver_in = stop.fail


def while_answering(world: Any, stop: Stop) -> None:
    def overwrite(claim: Any, *_: Any) -> bool:
        (world.home / "ipc" / ".claimed" / claim.name).write_bytes(b'{"request_id":"half of the ans')
        return bool(stop.fail())

    concluder = world.gateway.intake._concluder
    concluder.deliver = concluder._deliver_in = overwrite


def after_answer(world: Any, stop: Stop) -> None:
    world.gateway.intake._concluder._deliver_in = lambda *_: False
    world.gateway.intake._home.claims.discard = stop.fail


STEPS: list[Callable[[Any, Stop], None]] = [
    after_claim,
    before_effect,
    after_effect,
    before_record,
    after_record,
    while_answering,
    after_answer,
]


async def die(world: Any, step: Callable[[Any, Stop], None], act: Callable[[], Any]) -> None:
    """Runs a gateway up to the step, and no further."""
    async with world.running(drain_seconds=0.0):
        stop = Stop()
        step(world, stop)
        act()
        async with asyncio.timeout(10):
            await stop.reached.wait()
    world.governance.faults.before = world.governance.faults.after = None
    world.broker.faults.before = world.broker.faults.after = None


@pytest.mark.parametrize("step", STEPS)
async def test_a_task_is_created_once_whenever_the_gateway_dies(world: Any, step: Callable[[Any, Stop], None]) -> None:
    """A request without any id of its own: the claim's is what makes it one."""
    async with world.running():
        pass
    agent = world.mailbox()
    await die(world, step, lambda: agent.write(CREATE, "one.json"))
    if step is not after_answer:
        assert not (agent.path / "responses" / "one.json").exists()
    async with world.running():
        answer = await agent.answer("one")
        assert answer["status"] == "executed"
        assert (await agent.ask({**CREATE, "title": "next"}))["status"] == "executed"
        await world.until(lambda: not list((world.home / "ipc" / ".claimed").iterdir()))
    assert [task.title for task in world.governance.tasks.values()] == ["once", "next"]
    assert world.rows("SELECT count(*) FROM ipc_requests WHERE file_name = 'one.json'") == [(1,)]


async def test_what_was_recorded_is_what_is_answered(world: Any) -> None:
    """Though the same request would be decided otherwise by now."""
    async with world.running():
        pass
    agent = world.mailbox()
    move = {"type": "gov_transition", "taskId": "t-1", "toState": "READY"}
    await die(world, after_record, lambda: agent.write(move, "move.json"))
    world.governance.tasks["t-1"] = governance.Task(id="t-1", version=1)
    async with world.running():
        assert (await agent.answer("move"))["code"] == "TASK_NOT_FOUND"
    assert world.rows("SELECT code FROM ipc_requests WHERE file_name = 'move.json'") == [("TASK_NOT_FOUND",)]


@pytest.mark.parametrize("step", STEPS)
async def test_a_call_is_made_once_whenever_the_gateway_dies(world: Any, step: Callable[[Any, Stop], None]) -> None:
    """Under the agent's own request_id, its signature checked again."""
    async with world.running():
        pass
    agent = world.mailbox()
    await die(world, step, lambda: agent.write(agent.sign(CALL)))
    async with world.running():
        assert (await agent.answer("call-1"))["status"] == "executed"
    assert world.broker.faults.effects == ["Call"]


@pytest.mark.parametrize("step", [after_claim, before_record, after_record, after_answer])
async def test_a_message_is_kept_once_whenever_the_gateway_dies(world: Any, step: Callable[[Any, Stop], None]) -> None:
    """Neither lost nor said twice."""
    async with world.running():
        pass
    agent = world.mailbox()
    await die(world, step, lambda: agent.write({"type": "message", "text": "hello"}, "m.json", "messages"))
    async with world.running():
        assert (await agent.answer("m"))["status"] == "executed"
        found = (await world.stub().ListMessages(gateway.ListMessagesRequest())).messages
        assert [message.text for message in found] == ["hello"]


@pytest.mark.parametrize("step", [after_claim, before_record, after_record, after_answer])
async def test_a_bad_file_is_quarantined_once_whenever_the_gateway_dies(
    world: Any, step: Callable[[Any, Stop], None]
) -> None:
    """With its content."""
    async with world.running():
        pass
    agent = world.mailbox()
    await die(world, step, lambda: agent.write(b"[1]", "bad.json"))
    async with world.running():
        assert (await agent.answer("bad"))["code"] == "NOT_AN_OBJECT"
        (file,) = (await world.stub().ListQuarantine(gateway.ListQuarantineRequest())).files
        assert (world.home / "ipc" / "errors" / f"{file.id}.json").read_bytes() == b"[1]"


async def test_claims_of_a_dead_gateway_come_before_new_files(world: Any) -> None:
    """In the order in which they were made, so that requests about one task keep theirs."""
    async with world.running():
        pass
    agent = world.mailbox()
    await agent_create(world, agent)

    def write() -> None:
        for version, state in ((1, "TRIAGED"), (2, "READY"), (3, "DOING")):
            agent.write(
                {"type": "gov_transition", "taskId": "t-1", "toState": state, "expectedVersion": version},
                f"{9 - version}.json",
            )

    await die(world, before_effect, write)
    agent.write({"type": "gov_transition", "taskId": "t-1", "toState": "REVIEW", "expectedVersion": 4}, "0.json")
    async with world.running():
        answers = [await agent.answer(name) for name in ("8", "7", "6", "0")]
    assert [answer["status"] for answer in answers] == ["executed"] * 4


async def agent_create(world: Any, agent: Any) -> None:
    """A task t-1."""
    async with world.running():
        assert (await agent.ask({**CREATE, "id": "t-1"}))["status"] == "executed"


async def test_an_answer_that_can_not_be_delivered_is_delivered_later(served: Any) -> None:
    """The sweep tries again, from what was recorded; nothing is done twice."""
    agent = served.mailbox()
    mailbox = served.box("developer").mailbox
    respond, mailbox.respond, mailbox.respond_in = mailbox.respond, Stop().fail, Stop().fail
    agent.write(CREATE, "one.json")
    await served.until(lambda: served.rows("SELECT 1 FROM ipc_answers"))
    mailbox.respond = respond
    await served.until(lambda: not served.box("developer").flying)
    await served.sweep()
    assert (await agent.answer("one"))["status"] == "executed"
    assert served.governance.faults.effects == ["CreateTask"]


async def test_what_is_not_durable_is_not_answered(served: Any) -> None:
    """While the database refuses, the agent waits; then it is answered, and the effect has happened once."""
    agent = served.mailbox()
    database = served.gateway.intake._database
    write, left = database.write, 3

    async def refuse(unit: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            assert not list((agent.path / "responses").iterdir())
            raise NanoclawError(Kind.UNAVAILABLE, "STORE_FULL", "the disk is full")
        return await write(unit)

    database.write = refuse
    assert (await agent.ask(CREATE))["status"] == "executed"
    assert left == -1
    assert served.governance.faults.effects == ["CreateTask"]


async def test_two_gateways_on_one_home_are_refused(world: Any) -> None:
    """They would claim each other's files."""
    async with world.running():
        first = world.gateway
        with pytest.raises(NanoclawError) as refusal:
            async with world.running(lock_seconds=0.0):
                pass
        assert refusal.value.reason == "ALREADY_RUNNING"
        world.gateway = first


async def kill_and_go_on(world: Any, kills: int, seed: int) -> None:
    """A real process is killed again and again while agents write."""
    chance = random.Random(seed)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NANOCLAW_")},
        "NANOCLAW_HOME": str(world.home),
        "NANOCLAW_LOG_LEVEL": "ERROR",
    }
    async with world.running():
        pass
    agents = [world.mailbox(group) for group in ("main", "developer", "security")]
    written: list[tuple[Any, str]] = []
    stopping = False

    async def write() -> None:
        number = 0
        while not stopping:
            number += 1
            agent = chance.choice(agents)
            if chance.random() < 0.3:
                request = agent.sign({**CALL, "request_id": f"call-{number}"})
                agent.write(request)
                written.append((agent, f"call-{number}"))
            else:
                written.append((agent, agent.write({**CREATE, "title": f"t-{number}"})))
            await asyncio.sleep(0.01)

    writer = asyncio.create_task(write())
    for _ in range(kills):
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "nanoclaw_ipc_gateway", env=environ)
        before = len(world.governance.faults.calls)
        # Now and then before it has done anything: recovery is killed too.
        if chance.random() < 0.7:
            await world.until(lambda: len(world.governance.faults.calls) > before)  # noqa: B023
        await asyncio.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    stopping = True
    await writer
    async with world.running():
        for agent, name in written:
            assert (await agent.answer(name))["status"] == "executed"
    creates = [json.loads((agent.path / "responses" / f"{name}.json").read_text()) for agent, name in written]
    titles = sorted(answer["data"]["title"] for answer in creates if "title" in (answer["data"] or {}))
    assert titles == sorted(task.title for task in world.governance.tasks.values())
    calls = [name for _, name in written if name.startswith("call-")]
    assert world.broker.faults.effects.count("Call") == len(calls)
    assert world.rows("SELECT count(*) FROM ipc_requests") == [(len(written),)]


@pytest.mark.crash
@pytest.mark.timeout(120)
async def test_a_killed_process_loses_and_repeats_nothing(world: Any) -> None:
    """SIGKILL, with real processes and files being written all the while."""
    await kill_and_go_on(world, 2, seed=7)


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(4))
async def test_many_kills_lose_and_repeat_nothing(world: Any, seed: int) -> None:
    """The same for longer."""
    await kill_and_go_on(world, 12, seed)
