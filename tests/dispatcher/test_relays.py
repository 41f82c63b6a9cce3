"""Which attempts get a relay to think by, from when to when."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_dispatcher import groups
from nanoclaw_dispatcher.groups import Groups


@pytest.fixture
def thinking(world: Any) -> Any:
    """A world in which developers may think, and nobody else."""
    world.groups = Groups({group.name: replace(group, relay=group.name == "developer") for group in world.groups})
    return world


async def test_the_relay_is_open_when_the_agent_starts_and_closed_when_it_has_ended(thinking: Any) -> None:
    """For the attempt's own group and task, in its trace; those of other groups cost nothing."""
    world = thinking
    seen: list[tuple[Path, bool]] = []
    others: list[Path | None] = []
    hand_in, approve = world.fake.agent, world.fake.agent

    async def agent(run: Any) -> int:
        if run.spec.group.name == "developer":
            seen.append((run.spec.relay, run.spec.relay.is_dir()))
            return await hand_in(run)
        others.append(run.spec.relay)
        return await approve(run)

    world.fake.agent = agent
    await world.dispatcher()
    await world.operator.ready("t1", gate=pb.GATE_SECURITY)
    await world.at("t1", "DONE")
    await world.quiet()
    attempt, review = world.attempts("t1")
    (opened,) = world.broker.opened
    assert (opened.attempt_id, opened.group, opened.task_id) == (attempt["id"], "developer", "t1")
    assert opened.traceparent == attempt["traceparent"]
    assert seen == [(world.home / "attempts" / attempt["id"] / "relay", True)]
    assert others == [None]
    assert world.broker.closed == [attempt["id"]]
    assert review["group_name"] == "security"


async def test_an_agent_that_may_think_waits_for_the_broker(thinking: Any) -> None:
    """It is not started without what it was promised."""
    world = thinking
    world.broker.faults["OpenRelay"].extend([_away(), _away()])
    world.broker.faults["CloseRelay"].append(_away())
    await world.dispatcher()
    await world.operator.ready("t1", gate=pb.GATE_SECURITY)
    await world.at("t1", "DONE")
    await world.quiet()
    assert len(world.broker.opened) == 1
    assert len(world.broker.closed) == 1


async def test_a_relay_is_closed_although_its_group_has_none_any_more(thinking: Any) -> None:
    """Configuration changes at a restart; what was opened before is still there."""
    world = thinking
    held = world.fake.agent
    first = await world.dispatcher()
    started = []

    async def stays(run: Any) -> int:
        started.append(run)
        await run.terminated.wait()
        return 0

    world.fake.agent = stays
    await world.operator.ready("t1", gate=pb.GATE_SECURITY)
    await world.until(lambda: started and world.attempts("t1")[0]["state"] == "STARTED", "it runs")
    await first.stop()
    world.groups = Groups({group.name: replace(group, relay=False) for group in world.groups})
    world.fake.agent = held
    await world.dispatcher()
    await world.operator.move("t1", "BLOCKED")
    await world.until(lambda: world.broker.closed, "it is closed")


async def test_a_crash_after_the_relay_was_opened_opens_it_no_second_time(thinking: Any) -> None:
    """The next dispatcher repeats the request, word for word."""
    world = thinking
    first = await world.dispatcher(begin=False)

    async def crash() -> None:
        world.ones[0].engine.spawn(first.crash())
        await world.until(lambda: False, "never")

    first.relay.after["OpenRelay"] = crash
    await first.engine.start()
    await world.operator.ready("t1", gate=pb.GATE_SECURITY)
    await world.until(lambda: first.gone, "it died")
    await world.dispatcher()
    await world.at("t1", "DONE")
    await world.quiet()
    assert {one.request_id for one in world.broker.opened} == {world.broker.opened[0].request_id}
    assert len(world.attempts("t1")) == 2


@pytest.mark.parametrize(("value", "fits"), [("true", True), ("false", True), ('"yes"', False), ("1", False)])
def test_relay_is_a_key_of_a_group(value: str, fits: bool) -> None:
    """True or false, and off unless said otherwise."""
    text = f'[groups.main]\nrole = "main"\n[groups.developer]\nrole = "executor"\nrelay = {value}\n'
    if fits:
        parsed = groups.parse(text)
        assert parsed.by_name["developer"].relay is (value == "true")
        assert not parsed.by_name["main"].relay
    else:
        with pytest.raises(ValueError, match=r"groups\.developer\.relay"):
            groups.parse(text)


def _away() -> Any:
    from nanoclaw_core.errors import Kind, NanoclawError

    return NanoclawError(Kind.UNAVAILABLE, "AWAY", "not now")
