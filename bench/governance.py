"""Rows of the governance kernel against the echo baseline: TransitionTask, GetTask, ListTasks."""

import itertools
import statistics
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import grpc.aio

from bench import echo
from bench.load import Call, closed_loop
from bench.rows import Row, Sample, row
from bench.system import System, echo_server
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc

ROUNDS = 3
SECONDS = 2.0
_CYCLE = (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY, pb.TASK_STATE_BLOCKED)

Stub = governance_pb2_grpc.GovernanceServiceAsyncStub


async def against_echo(
    baseline: tuple[Call, int], subject: tuple[Call, int], callers: int
) -> tuple[list[Sample], list[Sample]]:
    """Rounds of both in turn after a warm-up, so that noise meets them alike."""
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for call, pid in (baseline, subject):
        await closed_loop(call, callers, SECONDS / 4, pid)
    for _ in range(ROUNDS):
        for (call, pid), kept in zip((baseline, subject), samples, strict=True):
            kept.append(await closed_loop(call, callers, SECONDS, pid))
    return samples


def throughput(baseline: list[Sample], subject: list[Sample]) -> float:
    """The median over rounds of calls a second over the baseline's."""
    return statistics.median(ours.per_second / bare.per_second for bare, ours in zip(baseline, subject, strict=True))


def latency(baseline: list[Sample], subject: list[Sample]) -> float:
    """The median over rounds of the median latency over the baseline's."""
    return statistics.median(ours.p50 / bare.p50 for bare, ours in zip(baseline, subject, strict=True))


async def transition(stub: Stub, system: System, callers: int) -> Call:
    """Each caller moves a task of its own round TRIAGED → READY → BLOCKED → TRIAGED, durable, with its version."""
    metadata = system.metadata
    prefix = f"bench-{next(_runs)}"
    for number in range(callers):
        await stub.CreateTask(
            pb.CreateTaskRequest(
                request_id=f"{prefix}-{number}",
                id=f"{prefix}-{number}",
                title="A task of the bench",
                task_type=pb.TASK_TYPE_OPS,
                assigned_group="",
            ),
            metadata=metadata,
        )
    versions = [1] * callers
    cycles = [itertools.cycle(_CYCLE) for _ in range(callers)]

    async def call(number: int) -> object:
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


_runs = itertools.count(1)


async def rows(system: System) -> list[Row]:
    """All rows that need governance and the echo only."""
    found: list[Row] = []
    async with AsyncExitStack() as stack:
        bare, echo_pid = await stack.enter_async_context(echo_server(system.home))
        channel = await stack.enter_async_context(system.channel("governance"))
        stub: Stub = governance_pb2_grpc.GovernanceServiceStub(channel)
        pid = system.pid("governance")
        for callers in (1, 16, 64):
            move = await transition(stub, system, callers)
            size = (await move(0)).ByteSize()  # type: ignore[attr-defined]
            samples = await against_echo((echo.caller(bare, size), echo_pid), (move, pid), callers)
            if callers == 1:
                found.append(row("TransitionTask p50 / echo p50", 1, latency(*samples), 3.5, False, samples[1]))
            else:
                found.append(row("TransitionTask / echo", callers, throughput(*samples), 0.33, True, samples[1]))
        found += await reads(system, bare, echo_pid, stub, pid)
    return found


async def reads(system: System, bare: grpc.aio.Channel, echo_pid: int, stub: Stub, pid: int) -> list[Row]:
    """GetTask and ListTasks(50) at 16 callers."""
    metadata = system.metadata
    for number in range(60):
        await stub.CreateTask(
            pb.CreateTaskRequest(request_id=f"read-{number}", id=f"read-{number}", title="To read", task_type=1),
            metadata=metadata,
        )

    async def get(number: int) -> object:
        return await stub.GetTask(pb.GetTaskRequest(task_id=f"read-{number % 60}"), metadata=metadata)

    async def page(_number: int) -> object:
        return await stub.ListTasks(pb.ListTasksRequest(page_size=50), metadata=metadata)

    found = []
    plan: list[tuple[str, Callable[[int], Awaitable[object]], float]] = [
        ("GetTask / echo", get, 0.5),
        ("ListTasks(50) / echo", page, 0.15),
    ]
    for callers in (1, 16, 64):
        for path, call, target in plan:
            size = (await call(0)).ByteSize()  # type: ignore[attr-defined]
            samples = await against_echo((echo.caller(bare, size), echo_pid), (call, pid), callers)
            found.append(row(path, callers, throughput(*samples), target, True, samples[1]))
    return found
