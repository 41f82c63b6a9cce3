"""Looks at tasks: one at a time for each, at what the log's stream has brought, and nothing is asked for twice."""

import asyncio
from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_dispatcher.looking import Looking
from nanoclaw_dispatcher.task import Task, TaskState


def message(version: int) -> pb.Task:
    """A reading."""
    return pb.Task(id="t", version=version, state=pb.TASK_STATE_READY)


class Now:
    """Governance, whose task is at version 100."""

    async def get(self, task_id: str) -> pb.Task:
        return message(100)

    async def as_task(self, reading: pb.Task) -> Task:
        return Task(reading.id, reading.version, TaskState.READY)


class Considered:
    """The versions that the rules were asked about; each time they wait for `go`."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []
        self.looking = Looking(Now(), self.consider, lambda _: None, self.spawn)  # type: ignore[arg-type]

    def spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def consider(self, task: Task, reading: pb.Task) -> None:
        self.versions.append(task.version)
        self.began.set()
        await self.go.wait()

    async def after(self, first: pb.Task | None, *then: pb.Task | None) -> list[int]:
        """What was considered where the others came while the first one was."""
        self.looking.at("t", first)
        await self.began.wait()
        for each in then:
            self.looking.at("t", each)
        self.go.set()
        await asyncio.gather(*self.tasks)
        return self.versions


async def test_a_reading_that_comes_along_needs_no_other() -> None:
    """Without one the task is read."""
    assert await Considered().after(message(3)) == [3]
    assert await Considered().after(None) == [100]


async def test_of_what_comes_meanwhile_the_last_is_looked_at() -> None:
    """One look more, however many there were."""
    assert await Considered().after(message(3), message(4), message(5)) == [3, 5]


async def test_who_wants_the_task_as_it_is_now_gets_that() -> None:
    """A reading from before does not stand in for it, whichever came first."""
    assert await Considered().after(message(3), None, message(4)) == [3, 100]
    assert await Considered().after(message(3), message(4), None) == [3, 100]


async def test_a_governed_task_is_never_asked_for(world: Any) -> None:
    """From READY to DONE the stream and the answers to the dispatcher's own requests tell all there is to know."""
    one = await world.dispatcher()

    async def refuse() -> None:
        raise AssertionError("the task was asked for")

    one.governance.before["GetTask"] = refuse
    await world.operator.ready("t1", gate="GATE_SECURITY")
    await world.at("t1", "DONE")
    await world.quiet()
    assert "GetTask" in one.governance.before
