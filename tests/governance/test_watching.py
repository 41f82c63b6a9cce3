"""Watching loses nothing: not by reconnecting, not by falling behind, not by a filter."""

import asyncio
from typing import Any

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError


async def collect(stream: Any, count: int) -> list[Any]:
    """So many rows of the stream, heartbeats left out."""
    rows: list[Any] = []
    async with asyncio.timeout(20):
        async for message in stream:
            if message.HasField("activity"):
                rows.append(message.activity)
            if len(rows) == count:
                return rows
    raise AssertionError("the stream ended")


async def fill(service: Any, count: int) -> list[str]:
    """So many tasks, one row each."""
    admin = service.as_("operator:founder")
    answers = await asyncio.gather(*(admin("CreateTask", title="t", task_type="BUG") for _ in range(count)))
    return [answer.task.id for answer in answers]


async def test_rows_come_as_they_are_committed(service) -> None:
    """A watcher without a cursor begins at the head, which its first message names."""
    await fill(service, 2)
    stream = service.as_("operator:vic")("WatchTasks")
    first = await stream.read()
    assert not first.HasField("activity")
    assert first.cursor.seq == 2
    (task_id,) = await fill(service, 1)
    message = await stream.read()
    assert (message.activity.task_id, message.activity.action) == (task_id, "create")
    assert message.cursor == message.activity.cursor == pb.Cursor(epoch=1, seq=3)
    stream.cancel()


async def test_reconnecting_at_random_loses_and_repeats_nothing(service) -> None:
    """While others write without a pause, a client that reconnects again and again sees every row once, in order."""
    total = 300
    writing = asyncio.create_task(_write(service, total))
    seen: list[int] = []
    cursor = pb.Cursor(epoch=1, seq=0)
    step = 0
    while len(seen) < total:
        step = step % 23 + 1
        stream = service.as_("service:dispatcher")("WatchTasks", cursor=cursor)
        rows = await collect(stream, min(step, total - len(seen)))
        stream.cancel()
        seen += [row.cursor.seq for row in rows]
        cursor = rows[-1].cursor
    assert seen == list(range(1, total + 1))
    await writing


async def _write(service: Any, total: int) -> None:
    for _ in range(total // 10):
        await fill(service, 10)


async def test_a_client_far_behind_catches_up(service) -> None:
    """More rows than one read takes."""
    await fill(service, 450)
    rows = await collect(service.as_("operator:founder")("WatchTasks", cursor=pb.Cursor(epoch=1, seq=0)), 450)
    assert [row.cursor.seq for row in rows] == list(range(1, 451))


async def test_a_filter_for_one_task_passes_all_of_its_rows(service) -> None:
    """Among hundreds of others', with heartbeats that move the cursor on."""
    wanted, *_ = await fill(service, 1)
    await fill(service, 210)
    admin = service.as_("operator:founder")
    await admin("UpdateTask", task_id=wanted, title="new")
    rows = await collect(admin("WatchTasks", cursor=pb.Cursor(epoch=1, seq=0), task_id=wanted), 2)
    assert [(row.cursor.seq, row.action) for row in rows] == [(1, "create"), (212, "update")]


async def test_rows_bring_their_tasks_to_who_asks_for_them(service) -> None:
    """As they are when the row is read: never older than the row; nothing where a row is about no task."""
    admin = service.as_("operator:founder")
    (task_id,) = await fill(service, 1)
    await admin("UpdateTask", task_id=task_id, title="new")
    await admin("CreateProduct", id="p", name="P")
    beginning = pb.Cursor(epoch=1, seq=0)
    for with_tasks, titles in ((True, ["new", "new", None]), (False, [None, None, None])):
        stream = admin("WatchTasks", cursor=beginning, with_tasks=with_tasks)
        seen = [await stream.read() for _ in titles]
        assert [message.task.title if message.HasField("task") else None for message in seen] == titles
        stream.cancel()
    stream = admin("WatchTasks", with_tasks=True)
    assert not (await stream.read()).HasField("task")
    moved = (await admin("TransitionTask", task_id=task_id, to_state="TRIAGED")).task
    assert (await stream.read()).task == moved
    stream.cancel()


async def test_a_heartbeat_names_the_head(open_service) -> None:
    """Also past rows that a filter keeps back, so that who resumes there need not read them again."""
    service = await open_service(heartbeat_seconds=0.05)
    wanted, *_ = await fill(service, 1)
    stream = service.as_("operator:founder")("WatchTasks", cursor=pb.Cursor(epoch=1, seq=1), task_id=wanted)
    await fill(service, 3)
    async with asyncio.timeout(10):
        while True:
            message = await stream.read()
            assert not message.HasField("activity")
            if message.cursor.seq == 4:
                break
    stream.cancel()


async def test_without_a_filter_heartbeats_come_while_nothing_happens(open_service) -> None:
    """One after the other, and rows in between."""
    service = await open_service(heartbeat_seconds=0.05)
    stream = service.as_("operator:founder")("WatchTasks", cursor=pb.Cursor(epoch=1, seq=0))
    async with asyncio.timeout(10):
        for _ in range(3):
            assert not (await stream.read()).HasField("activity")
        await fill(service, 1)
        while not (await stream.read()).HasField("activity"):
            pass
    stream.cancel()


@pytest.mark.parametrize(("epoch", "seq"), [(1, 99), (2, 1), (0, 1), (1, -1), (-1, 0), (1, 2**62)])
async def test_a_cursor_that_is_not_of_this_log_is_refused(service, epoch: int, seq: int) -> None:
    """Beyond the head, or of another epoch: never a silent wait."""
    await fill(service, 2)
    stream = service.as_("operator:founder")("WatchTasks", cursor=pb.Cursor(epoch=epoch, seq=seq))
    with pytest.raises(NanoclawError) as caught:
        await asyncio.wait_for(stream.read(), 10)
    assert caught.value.kind is Kind.INVALID
    assert caught.value.reason == ("CURSOR_INVALID" if min(epoch, seq) >= 0 else "INVALID_FIELD")


async def test_watchers_are_counted_and_end_with_the_service(service) -> None:
    """GetStatus knows them; a stop ends them with UNAVAILABLE, for their clients to come back."""
    admin = service.as_("operator:founder")
    stream = admin("WatchTasks")
    await stream.read()
    assert (await admin("GetStatus")).watchers == 1
    stopping = asyncio.create_task(service.server.stop())
    with pytest.raises(NanoclawError) as caught:
        await asyncio.wait_for(stream.read(), 10)
    assert caught.value.kind is Kind.UNAVAILABLE
    await stopping


async def test_a_restart_loses_nothing(open_service) -> None:
    """The cursor of before still holds, and what was committed while nobody listened is there."""
    service = await open_service()
    await fill(service, 3)
    stream = service.as_("operator:founder")("WatchTasks", cursor=pb.Cursor(epoch=1, seq=0))
    rows = await collect(stream, 3)
    stream.cancel()
    await fill(service, 2)
    await service.close()
    service = await open_service()
    await fill(service, 1)
    rows += await collect(service.as_("operator:founder")("WatchTasks", cursor=rows[-1].cursor), 3)
    assert [row.cursor.seq for row in rows] == [1, 2, 3, 4, 5, 6]
