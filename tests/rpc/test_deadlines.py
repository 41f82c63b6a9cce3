"""Time is the caller's: the handler ends before the caller gives up, and what it calls gets no more than is left."""

import asyncio

import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import deadline


@pytest.fixture
def unhurried(monkeypatch):
    """Half of a call's time is for reporting its end: a busy machine may need more than the usual quarter second."""
    monkeypatch.setattr(deadline, "_REPORT_SECONDS", 10.0)
    monkeypatch.setattr(deadline, "_REPORT_SHARE", 0.5)


@pytest.fixture
def endless(puppet):
    """GetTask that never answers; says how it ended."""
    ended: asyncio.Queue[BaseException] = asyncio.Queue()

    async def wait(_request):
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.put_nowait(error)
            raise

    puppet.on_get = wait
    return ended


async def test_a_handler_is_ended_in_time_to_report_it(serve, dial, spec, endless):
    """The caller gets our error with its next step, not its own transport's timeout; the handler is cancelled."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest(), timeout=1.25)
    assert (caught.value.kind, caught.value.reason) == (Kind.DEADLINE, "DEADLINE_EXCEEDED")
    assert "that the caller allowed" in caught.value.message
    assert caught.value.next_step
    assert isinstance(await endless.get(), asyncio.CancelledError)


async def test_deadlines_of_every_length_share_the_timer(serve, dial, spec, endless, unhurried):
    """A short one behind a long one, and a long one behind a short one, each end in their own time, in that order."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    order: list[float] = []

    async def call(timeout: float) -> None:
        with pytest.raises(NanoclawError) as caught:
            await stub.GetTask(pb.GetTaskRequest(), timeout=timeout)
        assert "that the caller allowed" in caught.value.message
        order.append(timeout)

    await asyncio.gather(*(call(timeout) for timeout in (1.8, 0.6, 1.2, 2.4)))
    assert order == [0.6, 1.2, 1.8, 2.4]
    assert [type(await endless.get()) for _ in range(4)] == [asyncio.CancelledError] * 4


async def test_a_stream_has_its_deadline_too(serve, dial, spec, unhurried):
    """A watcher that set one is told when it is over."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError) as caught:
        async for _row in stub.WatchTasks(pb.WatchTasksRequest(), timeout=1.0):
            pass
    assert "that the caller allowed" in caught.value.message


async def test_a_caller_that_gives_up_cancels_the_handler(serve, dial, spec, puppet, endless):
    """Work for nobody is stopped, and is no deadline."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    call = asyncio.create_task(stub.GetTask(pb.GetTaskRequest(), timeout=30))
    await puppet.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert isinstance(await endless.get(), asyncio.CancelledError)


async def test_a_timeout_inside_the_handler_is_not_taken_for_the_caller_s(serve, dial, spec, puppet):
    """The handler's own TimeoutError is the handler's business."""

    async def impatient(_request):
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return pb.GetTaskResponse(task=pb.Task(id="fallback"))

    puppet.on_get = impatient
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    assert (await stub.GetTask(pb.GetTaskRequest(), timeout=5)).task.id == "fallback"


async def test_what_a_handler_calls_gets_no_more_time_than_is_left(serve, dial, spec, puppet):
    """Each hop ends before the one that waits for it."""
    server = await serve(spec)
    inner = stubs.GovernanceServiceStub(dial(server, timeout=60))
    remaining: list[float] = []

    async def relay(request):
        if request.task_id == "inner":
            remaining.append(puppet.contexts[-1].time_remaining())
            return pb.GetTaskResponse()
        return await inner.GetTask(pb.GetTaskRequest(task_id="inner"))

    puppet.on_get = relay
    await stubs.GovernanceServiceStub(dial(server)).GetTask(pb.GetTaskRequest(task_id="outer"), timeout=2.0)
    await inner.GetTask(pb.GetTaskRequest(task_id="inner"))
    assert remaining[0] < 2.0
    assert remaining[1] > 30


async def test_a_task_that_outlives_its_call_is_not_bound_by_it(serve, dial, spec, puppet, unhurried):
    """Background work that a call started keeps its own time."""
    server = await serve(spec)
    inner = stubs.GovernanceServiceStub(dial(server))
    answered, background = asyncio.Event(), []

    async def later():
        await answered.wait()
        return await inner.GetTask(pb.GetTaskRequest(task_id="inner"), timeout=30)

    async def start(request):
        if request.task_id == "outer":
            background.append(asyncio.create_task(later()))
        elif request.task_id == "until the end":
            await asyncio.Event().wait()
        return pb.GetTaskResponse(task=pb.Task(id=request.task_id))

    puppet.on_get = start
    stub = stubs.GovernanceServiceStub(dial(server))
    await stub.GetTask(pb.GetTaskRequest(task_id="outer"), timeout=1.0)
    with pytest.raises(NanoclawError):  # waits out the deadline of the call before
        await stub.GetTask(pb.GetTaskRequest(task_id="until the end"), timeout=2.2)
    answered.set()
    assert (await background[0]).task.id == "inner"
    assert puppet.contexts[-1].time_remaining() > 5


async def test_without_time_nothing_is_called(serve, dial, spec, puppet):
    """Zero is no time, where grpc takes it for all the time in the world."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest(), timeout=0)
    assert caught.value.kind is Kind.DEADLINE
    assert puppet.seen == []
