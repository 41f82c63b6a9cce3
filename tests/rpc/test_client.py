"""The client half: brings its credential, tries again only where that is safe, raises our errors."""

import asyncio
import contextlib

import grpc
import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import connect
from nanoclaw_telemetry import off


class Failing:
    """Raises the error so many times, then answers."""

    def __init__(self, error, times, response):
        self.error, self.left, self.response = error, times, response

    def __call__(self, _request):
        if self.left:
            self.left -= 1
            raise self.error
        return self.response


UNAVAILABLE = NanoclawError(Kind.UNAVAILABLE, "NOT_YET", "not yet")
DEADLINE = NanoclawError(Kind.DEADLINE, "DEADLINE_EXCEEDED", "too slow")


async def test_unavailable_is_tried_again_with_the_same_request(serve, dial, spec, puppet):
    """The second and third attempt carry what the first did, its request_id above all."""
    puppet.on_create = Failing(UNAVAILABLE, 2, pb.CreateTaskResponse(task=pb.Task(id="t")))
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    request = pb.CreateTaskRequest(request_id="r1", title="x")
    assert (await stub.CreateTask(request)).task.id == "t"
    assert puppet.seen == [request] * 3
    headers = [dict(context.invocation_metadata()) for context in puppet.contexts]
    assert headers[0].get("traceparent") == headers[1].get("traceparent")


async def test_where_nobody_listens_the_error_says_what_to_look_at(socket_dir, dial):
    """A port that refuses, a socket that is not there."""
    for address in ("127.0.0.1:1", f"unix:{socket_dir}/none.sock"):
        stub = stubs.GovernanceServiceStub(dial(address, attempts=1))
        with pytest.raises(NanoclawError) as caught:
            await stub.GetTask(pb.GetTaskRequest())
        assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "NOT_LISTENING")
        assert "that the service runs" in caught.value.next_step


async def test_after_the_last_attempt_the_error_itself_is_raised(serve, dial, spec, puppet):
    """Not tenacity's."""
    puppet.on_get = Failing(UNAVAILABLE, 99, None)
    stub = stubs.GovernanceServiceStub(dial(await serve(spec), attempts=3))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest())
    assert caught.value.reason == "NOT_YET"
    assert len(puppet.seen) == 3


@pytest.mark.parametrize(("request_id", "attempts"), [("r1", 2), ("", 1)])
async def test_a_deadline_is_tried_again_only_under_a_request_id(serve, dial, spec, puppet, request_id, attempts):
    """It may have happened: only the same request_id makes a repetition harmless."""
    puppet.on_create = Failing(DEADLINE, 1, pb.CreateTaskResponse())
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    call = stub.CreateTask(pb.CreateTaskRequest(request_id=request_id))
    if request_id:
        await call
    else:
        with pytest.raises(NanoclawError):
            await call
    assert len(puppet.seen) == attempts


async def test_a_deadline_of_a_read_is_not_tried_again(serve, dial, spec, puppet):
    """A message without the field has no request_id either."""
    puppet.on_get = Failing(DEADLINE, 1, None)
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError):
        await stub.GetTask(pb.GetTaskRequest())
    assert len(puppet.seen) == 1


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in {Kind.UNAVAILABLE, Kind.DEADLINE}])
async def test_nothing_else_is_tried_again(serve, dial, spec, puppet, kind):
    """A refusal is an answer."""
    puppet.on_create = Failing(NanoclawError(kind, "NO", "no"), 1, None)
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError):
        await stub.CreateTask(pb.CreateTaskRequest(request_id="r1"))
    assert len(puppet.seen) == 1


async def test_a_call_rides_over_a_restart_of_the_server(serve, dial, spec):
    """UNAVAILABLE while nobody listens, answered once somebody does."""
    server = await serve(spec)
    address = server.addresses[0]
    stub = stubs.GovernanceServiceStub(dial(address, attempts=50))
    await stub.GetTask(pb.GetTaskRequest())
    await server.stop()
    call = asyncio.create_task(stub.GetTask(pb.GetTaskRequest(task_id="x")))
    with pytest.raises(NanoclawError):
        await stubs.GovernanceServiceStub(dial(address, attempts=1)).GetTask(pb.GetTaskRequest())
    await serve(spec, listen=[address])
    assert (await call).task.id == "x"


async def test_retries_are_counted(serve, dial, spec, puppet):
    """A metric by method tells of services that come and go."""
    telemetry = off("test")
    puppet.on_get = Failing(UNAVAILABLE, 2, pb.GetTaskResponse())
    server = await serve(spec)
    for _ in range(2):  # a service opens several channels with one telemetry
        channel = dial(server, telemetry=telemetry)
    await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    method = "/nanoclaw.governance.v1.GovernanceService/GetTask"
    assert telemetry.registry.get_sample_value("nanoclaw_rpc_retries_total", {"method": method}) == 2


async def test_a_server_that_is_slow_to_greet_is_waited_for(serve, spec, credentials, home):
    """A busy machine takes longer than the pause before the next try to make a connection: that is not a failed one."""
    server = await serve(spec)
    talks: list[asyncio.Task[None]] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # one end closes first
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        there = await asyncio.open_unix_connection(server.addresses[0].removeprefix("unix:"))
        await asyncio.sleep(0.5)
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    async with await asyncio.start_unix_server(late, home / "run/late.sock"):
        token = credentials.token_file("operator:founder")
        async with connect(f"unix:{home}/run/late.sock", token_file=token, attempts=1) as channel:
            answer = await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest(task_id="t1"))
            assert answer.task.id == "t1"
        await asyncio.gather(*talks)


async def test_a_changed_token_file_is_read_again(serve, spec, credentials, tmp_path):
    """Tokens are changed under running clients; the old one is used for 50 ms at most."""
    path = tmp_path / "token"
    path.write_text("nct_wrong\n")
    stub = stubs.GovernanceServiceStub(channel := connect((await serve(spec)).addresses[0], token_file=path))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest())
    assert caught.value.kind is Kind.UNAUTHENTICATED
    new = tmp_path / "new"
    new.write_text(credentials.token_file("operator:founder").read_text())
    new.replace(path)
    async with asyncio.timeout(5):
        answer = None
        while answer is None:
            with contextlib.suppress(NanoclawError):
                answer = await stub.GetTask(pb.GetTaskRequest())
    assert answer.task.title == "operator:founder"
    await channel.close()


@pytest.mark.parametrize("content", [None, "", "  \n", "tök", "a\nb"])
async def test_a_token_file_that_holds_no_token_is_named(spec, serve, tmp_path, content):
    """The error says which file; not what is in it."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    async with connect((await serve(spec)).addresses[0], token_file=path) as channel:
        with pytest.raises(NanoclawError) as caught:
            await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAUTHENTICATED, "TOKEN_UNREADABLE")
    assert str(path) in caught.value.message


async def test_a_call_without_a_timeout_has_the_channel_s(serve, dial, spec, puppet):
    """No call waits for ever by default."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec), timeout=7))
    await stub.GetTask(pb.GetTaskRequest())
    await stub.GetTask(pb.GetTaskRequest(), timeout=3)
    first, second = (context.time_remaining() for context in puppet.contexts)
    assert 3.1 < first <= 7.1  # the wire rounds up, by a hundredth of a second here
    assert second <= 3.1


async def test_a_stream_can_be_read_one_by_one_and_left(serve, dial, spec, puppet):
    """read, cancel and done work as on any grpc.aio stream."""
    watch = stubs.GovernanceServiceStub(dial(await serve(spec))).WatchTasks(pb.WatchTasksRequest())
    await watch.wait_for_connection()
    assert isinstance(await watch.read(), pb.WatchTasksResponse)
    assert not watch.done()
    assert watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch.read()


async def test_a_stream_s_end_is_told_by_read(serve, dial, spec, puppet):
    """An error met by read is ours too."""
    puppet.watch_error = NanoclawError(Kind.NOT_FOUND, "GONE", "gone")
    watch = stubs.GovernanceServiceStub(dial(await serve(spec))).WatchTasks(pb.WatchTasksRequest())
    await watch.read()
    with pytest.raises(NanoclawError) as caught:
        await watch.read()
    assert caught.value.reason == "GONE"


async def test_the_channel_is_a_grpc_aio_channel(serve, dial, spec):
    """Typed stubs and anything else that takes one work with it."""
    channel = dial(await serve(spec))
    assert isinstance(channel, grpc.aio.Channel)
    await channel.channel_ready()
    assert channel.get_state() is grpc.ChannelConnectivity.READY
