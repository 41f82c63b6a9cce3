"""Rows of the governance kernel: TransitionTask, GetTask, ListTasks, against the echo and against a million tasks."""

import itertools
import os
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TypeAlias

from bench import echo
from bench.compare import in_turn, latency, throughput
from bench.load import Call
from bench.rows import Row, row
from bench.system import System, echo_server, home, system
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.services import SERVICES

Stub: TypeAlias = "governance_pb2_grpc.GovernanceServiceAsyncStub"  # known to type checkers only

MANY = 1_000_000
ALONE = [service for service in SERVICES if service.name == "governance"]
"""The echo runs alone too; what watchers of the log cost shows in the row of governed tasks."""
_CYCLE = (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY, pb.TASK_STATE_BLOCKED)
_runs = itertools.count(1)


async def create(stub: Stub, one: System, task_id: str) -> None:
    """A task that nobody is assigned to, so that nothing is dispatched."""
    await stub.CreateTask(
        pb.CreateTaskRequest(request_id=task_id, id=task_id, title="A task of the bench", task_type=pb.TASK_TYPE_OPS),
        metadata=one.metadata,
    )


async def moves(stub: Stub, one: System, callers: int) -> Call:
    """Each caller moves a task of its own round TRIAGED → READY → BLOCKED, durable, logged, with its version."""
    metadata = one.metadata
    prefix = f"bench-{next(_runs)}"
    for number in range(callers):
        await create(stub, one, f"{prefix}-{number}")
    versions = [1] * callers
    cycles = [itertools.cycle(_CYCLE) for _ in range(callers)]

    async def call(number: int) -> pb.TransitionTaskResponse:
        version = versions[number]
        answer = await stub.TransitionTask(
            pb.TransitionTaskRequest(
                request_id=f"{prefix}-{number}-{version}",
                task_id=f"{prefix}-{number}",
                to_state=next(cycles[number]),
                reason="measured",
                expected_version=version,
            ),
            metadata=metadata,
        )
        versions[number] = answer.task.version
        return answer

    return call


def reads(stub: Stub, one: System, tasks: int) -> tuple[Call, Call]:
    """GetTask over so many tasks, and the first page of 50."""
    metadata = one.metadata
    numbers = itertools.count()

    async def get(_number: int) -> pb.GetTaskResponse:
        return await stub.GetTask(pb.GetTaskRequest(task_id=f"read-{next(numbers) * 7919 % tasks}"), metadata=metadata)

    async def page(_number: int) -> pb.ListTasksResponse:
        return await stub.ListTasks(pb.ListTasksRequest(page_size=50), metadata=metadata)

    return get, page


async def size(call: Call) -> int:
    """The bytes of an answer: the echo sends as many."""
    return int((await call(0)).ByteSize())  # type: ignore[attr-defined]


async def rows(one: System) -> list[Row]:
    """All rows that need governance and the echo only."""
    found: list[Row] = []
    async with AsyncExitStack() as stack:
        bare, echo_pid = await stack.enter_async_context(echo_server(one.home))
        channel = await stack.enter_async_context(one.channel("governance"))
        stub: Stub = governance_pb2_grpc.GovernanceServiceStub(channel)
        pid = one.pid("governance")
        for callers in (1, 16, 64):
            move = await moves(stub, one, callers)
            samples = await in_turn((echo.caller(bare, await size(move)), echo_pid), (move, pid), callers)
            if callers == 1:
                found.append(row("TransitionTask p50 / echo p50", 1, latency(*samples), 3.5, False, samples[1]))
            else:
                found.append(row("TransitionTask / echo", callers, throughput(*samples), 0.33, True, samples[1]))
        for number in range(60):
            await create(stub, one, f"read-{number}")
        get, page = reads(stub, one, 60)
        for path, call, target in (("GetTask / echo", get, 0.5), ("ListTasks(50) / echo", page, 0.15)):
            for callers in (1, 16, 64):
                samples = await in_turn((echo.caller(bare, await size(call)), echo_pid), (call, pid), callers)
                found.append(row(path, callers, throughput(*samples), target, True, samples[1]))
    return found


async def traced(one: System) -> list[Row]:
    """TransitionTask with every request traced to a collector; `one` exports."""
    found = []
    async with echo_server(one.home) as (bare, echo_pid), one.channel("governance") as channel:
        stub: Stub = governance_pb2_grpc.GovernanceServiceStub(channel)
        for callers in (16, 64):
            move = await moves(stub, one, callers)
            subject = (move, one.pid("governance"))
            samples = await in_turn((echo.caller(bare, await size(move)), echo_pid), subject, callers)
            path = "TransitionTask traced, 2 spans a call / echo"
            found.append(row(path, callers, throughput(*samples), 0.20, True, samples[1]))
    return found


async def at_scale() -> list[Row]:
    """The same calls over a million tasks against a thousand, each in a system of its own, in turn."""
    found = []
    async with AsyncExitStack() as stack:
        calls: list[tuple[list[Call], int]] = []
        wheres = []
        for tasks in (1000, MANY):
            wheres.append(where := await stack.enter_async_context(home()))
            async with system(where, services=ALONE) as first, first.channel("governance") as channel:
                await create(governance_pb2_grpc.GovernanceServiceStub(channel), first, "template")
            populate(where, tasks)
            one = await stack.enter_async_context(system(where, services=ALONE))
            channel = await stack.enter_async_context(one.channel("governance"))
            stub: Stub = governance_pb2_grpc.GovernanceServiceStub(channel)
            calls.append(([await moves(stub, one, 16), *reads(stub, one, tasks)], one.pid("governance")))
        (few, few_pid), (many, many_pid) = calls
        for name, small, large in zip(("TransitionTask", "GetTask", "ListTasks(50)"), few, many, strict=True):
            for where in wheres:
                warm(where)
            samples = await in_turn((small, few_pid), (large, many_pid), 16)
            path = f"{name} at {MANY:,} tasks / at 1,000, time"
            found.append(row(path, 16, latency(*samples), 1.2, False, samples[1]))
    return found


def warm(where: Path) -> None:
    """Has the whole file in memory, for the row is about how the work grows: some kernels take idle pages away."""
    with (where / "store" / "nanoclaw.db").open("rb") as file:
        while file.read(1 << 20):
            pass


def populate(where: Path, tasks: int) -> None:
    """Fills the table with copies of the task `template`; the log is not wanted here."""
    replaced = {
        "id": "'read-' || n",
        "state": "CASE n % 3 WHEN 0 THEN 'INBOX' WHEN 1 THEN 'TRIAGED' ELSE 'READY' END",
        "updated_at": "strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2026-01-01', (n * 7) || ' seconds')",
    }
    with closing(sqlite3.connect(where / "store" / "nanoclaw.db", isolation_level=None)) as database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(gov_tasks)")]
        database.execute(
            f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {tasks - 1}) "
            f"INSERT INTO gov_tasks ({', '.join(columns)}) "
            f"SELECT {', '.join(replaced.get(name, name) for name in columns)} "
            "FROM numbers, gov_tasks WHERE id = 'template'"
        )
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.sync()  # else the kernel writes it out under what is measured
