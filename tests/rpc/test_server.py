"""A server listens where it may, alone, and says goodbye properly."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import Server, connect, listen, serve_until_signalled


async def test_a_unix_socket_is_never_open_wider_not_even_while_it_is_bound(serve, spec, home, monkeypatch):
    """Between bind and chmod there is a moment: the umask covers it."""
    bind, seen = listen._add_port, []

    def watched(server, address):
        port = bind(server, address)
        seen.append(stat.S_IMODE(Path(address.removeprefix("unix:")).stat().st_mode))
        return port

    monkeypatch.setattr(listen, "_add_port", watched)
    await serve(spec, socket_mode=0o660)
    assert seen == [0o600]


@pytest.mark.parametrize("mode", [0o600, 0o660])
async def test_a_unix_socket_is_as_private_as_told(serve, spec, home, mode):
    """0600 by default, 0660 for a shared group; the folder is the owner's."""
    path = home / "sockets" / "g.sock"
    before = os.umask(0)
    try:
        options = {} if mode == 0o600 else {"socket_mode": mode}
        await serve(spec, listen=[f"unix:{path}"], **options)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert os.umask(0) == 0, "the umask must be put back"
    finally:
        os.umask(before)


async def test_it_serves_on_a_socket_and_on_loopback_at_once(serve, dial, spec, home):
    """Port 0 takes a free one and tells which."""
    server = await serve(spec, listen=[f"unix:{home}/run/a.sock", "127.0.0.1:0"])
    assert not server.addresses[1].endswith(":0")
    for address in server.addresses:
        answer = await stubs.GovernanceServiceStub(dial(address)).GetTask(pb.GetTaskRequest(task_id="x"))
        assert answer.task.id == "x"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "example.com:0"])
async def test_it_does_not_listen_beyond_the_machine_unless_told(spec, credentials, address):
    """Bearer tokens travel in clear text: loopback only."""
    with pytest.raises(NanoclawError) as caught:
        await Server(listen=[address], services=[spec], credentials=credentials).start()
    assert caught.value.reason == "NOT_LOOPBACK"


async def test_it_listens_beyond_the_machine_when_told(serve, spec, log_lines):
    """Explicitly, and the log says so."""
    server = await serve(spec, listen=["0.0.0.0:0"], allow_remote=True)
    assert server.addresses[0].startswith("0.0.0.0:")
    assert any("beyond this machine" in line["event"] for line in log_lines())


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:http", ":50051", "unix:/tmp/" + "x" * 120])
async def test_an_address_that_is_none_is_refused(spec, credentials, address):
    """With a reason, not with a stack trace of grpc's."""
    with pytest.raises(NanoclawError) as caught:
        await Server(listen=[address], services=[spec], credentials=credentials).start()
    assert caught.value.reason == "INVALID_ADDRESS"


async def test_a_second_server_on_the_same_socket_is_refused_and_the_first_goes_on(serve, dial, spec, credentials):
    """grpc itself would unlink the socket under the first server's feet."""
    first = await serve(spec)
    second = Server(listen=first.addresses, services=[spec], credentials=credentials)
    with pytest.raises(NanoclawError) as caught:
        await second.start()
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "ADDRESS_IN_USE")
    assert caught.value.next_step
    assert await stubs.GovernanceServiceStub(dial(first)).GetTask(pb.GetTaskRequest())


async def test_a_socket_that_somebody_else_listens_on_is_not_taken(spec, credentials, home):
    """Also when that somebody knows nothing of our lock file."""
    path = home / "run" / "x.sock"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        with pytest.raises(NanoclawError) as caught:
            await Server(listen=[f"unix:{path}"], services=[spec], credentials=credentials).start()
        assert caught.value.reason == "ADDRESS_IN_USE"
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))


async def test_a_server_that_is_just_starting_keeps_others_off(spec, credentials, home):
    """Before its socket is there to be seen, its lock is."""
    with (home / "run" / "x.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NanoclawError) as caught:
            await Server(listen=[f"unix:{home}/run/x.sock"], services=[spec], credentials=credentials).start()
    assert caught.value.reason == "ADDRESS_IN_USE"


async def test_a_second_server_on_the_same_port_is_refused(serve, spec, credentials):
    """Without SO_REUSEPORT the kernel says no; with it both would answer every other call."""
    first = await serve(spec, listen=["127.0.0.1:0"])
    with pytest.raises(NanoclawError) as caught:
        await Server(listen=first.addresses, services=[spec], credentials=credentials).start()
    assert caught.value.reason == "ADDRESS_IN_USE"


async def test_a_socket_left_by_a_killed_server_is_taken_over(serve, dial, spec, home):
    """Nobody listens on it, so it is stale."""
    path = home / "run" / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await serve(spec, listen=[f"unix:{path}"])
    assert await stubs.GovernanceServiceStub(dial(server)).GetTask(pb.GetTaskRequest())


async def test_a_file_in_the_socket_s_place_is_left_alone(spec, credentials, home):
    """What is no socket is not ours to remove."""
    path = home / "run" / "x.sock"
    path.write_text("precious")
    with pytest.raises(NanoclawError) as caught:
        await Server(listen=[f"unix:{path}"], services=[spec], credentials=credentials).start()
    assert caught.value.reason == "INVALID_ADDRESS"
    assert path.read_text() == "precious"


async def test_a_failed_start_lets_go_of_what_it_had_bound(serve, spec, credentials, home):
    """One bad address among several does not leave the others held."""
    good = f"unix:{home}/run/x.sock"
    with pytest.raises(NanoclawError):
        await Server(listen=[good, "0.0.0.0:1"], services=[spec], credentials=credentials).start()
    await serve(spec, listen=[good])


async def test_a_server_can_be_started_again_where_it_stopped(serve, dial, spec):
    """Stop leaves nothing behind that a start minds, and a start's socket is not removed by an old stop."""
    server = await serve(spec)
    address = server.addresses[0]
    for _ in range(5):
        await server.stop()
        server = await serve(spec, listen=[address])
        assert await stubs.GovernanceServiceStub(dial(address)).GetTask(pb.GetTaskRequest())


async def test_health_is_told_to_everybody(serve, dial, spec):
    """Load balancers have no credentials."""
    server = await serve(spec)
    stub = health_pb2_grpc.HealthStub(dial(server, None))
    for name in ("", spec.name):
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == 1
    server.set_serving(False)
    assert (await stub.Check(health_pb2.HealthCheckRequest(service=spec.name))).status == 2
    with pytest.raises(NanoclawError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="unheard"))
    assert caught.value.kind is Kind.NOT_FOUND


async def test_health_can_be_watched(serve, dial, spec):
    """Each change is sent once; the stop of the server ends the watch."""
    server = await serve(spec)
    stub = health_pb2_grpc.HealthStub(dial(server, None))
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await anext(watch)).status == 1
    server.set_serving(False)
    assert (await anext(watch)).status == 2
    unheard = stub.Watch(health_pb2.HealthCheckRequest(service="unheard"))
    assert (await anext(unheard)).status == 3
    await server.stop()
    with pytest.raises(NanoclawError) as caught:
        await anext(watch)
    assert caught.value.reason == "STOPPING"


async def requests(*sent):
    for one in sent:
        yield one


LIST = reflection_pb2.ServerReflectionRequest(list_services="*")


async def test_who_may_not_ask_reflection_is_told_the_next_step_in_the_message_itself(serve, dial, spec):
    """grpcurl shows nothing else of a failed reflection: neither reason nor links."""
    server = await serve(spec)
    async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests(LIST)):
                pass
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    said = caught.value.details()
    assert said.startswith("no authorization header: send one header `authorization: Bearer TOKEN`; ")
    assert "secrets/operators/founder.token" in said
    sent = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert status_pb2.Status.FromString(sent).message == said, "other clients take the message from there"


async def test_reflection_lists_the_services_for_any_credential(serve, dial, spec):
    """grpcurl works with a viewer's token too; v1alpha and v1 alike."""
    server = await serve(spec)
    channel = dial(server, "service:ops")
    v1 = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    for call in (reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo, v1):
        answers = [answer async for answer in call(requests(LIST))]
        names = {service.name for service in answers[0].list_services_response.service}
        assert {spec.name, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= names
    method, message = f"{spec.name}.GetTask", "nanoclaw.governance.v1.Task"
    for symbol, found in ((spec.name, True), (method, True), (message, True), (f"{spec.name}.Nonsense", False)):
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        (answer,) = [
            a async for a in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests(request))
        ]
        assert bool(answer.file_descriptor_response.file_descriptor_proto) is found, symbol


async def test_reflection_asks_for_a_credential(serve, dial, spec):
    """Strangers learn nothing of the API."""
    stub = reflection_pb2_grpc.ServerReflectionStub(dial(await serve(spec), None))
    with pytest.raises(NanoclawError) as caught:
        [answer async for answer in stub.ServerReflectionInfo(requests(LIST))]
    assert caught.value.reason == "NO_CREDENTIAL"


async def test_a_request_beyond_the_limit_is_refused(serve, dial, spec, puppet):
    """8 MiB, then RESOURCE_EXHAUSTED; the server lives on."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest(task_id="x" * (9 * 1024 * 1024)))
    assert caught.value.kind is Kind.EXHAUSTED
    assert puppet.seen == []
    assert await stub.GetTask(pb.GetTaskRequest(task_id="x" * 1024 * 1024))


async def test_a_stop_lets_a_running_call_finish(serve, dial, spec, puppet):
    """Draining: what was taken in is answered."""
    taken_in, release = asyncio.Event(), asyncio.Event()

    async def slow(request):
        taken_in.set()
        await release.wait()
        return pb.GetTaskResponse(task=pb.Task(id="done"))

    puppet.on_get = slow
    server = await serve(spec, drain_seconds=10)
    call = asyncio.create_task(stubs.GovernanceServiceStub(dial(server)).GetTask(pb.GetTaskRequest()))
    watch = stubs.GovernanceServiceStub(dial(server)).WatchTasks(pb.WatchTasksRequest())
    await anext(watch)
    await taken_in.wait()
    stop = asyncio.create_task(server.stop())
    with pytest.raises(NanoclawError):
        await anext(watch)
    ended, _ = await asyncio.wait({call, stop}, timeout=0.2)
    assert not ended
    release.set()
    assert (await call).task.id == "done"
    await stop


async def test_a_stop_ends_streams_at_once_with_a_word(serve, dial, spec, puppet):
    """A watcher is told to come again; it does not hold the stop up for the drain time."""
    server = await serve(spec, drain_seconds=30)
    watch = stubs.GovernanceServiceStub(dial(server)).WatchTasks(pb.WatchTasksRequest())
    await anext(watch)
    await asyncio.wait_for(server.stop(), 10)
    with pytest.raises(NanoclawError) as caught:
        await anext(watch)
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "STOPPING")
    assert len(puppet.watch_ended) == 1


@pytest.mark.parametrize("turns", range(0, 12, 3))
async def test_a_stop_waits_for_no_stream_that_has_just_begun(serve, dial, spec, puppet, turns):
    """However far its first message is: grpc can't end a call while that is on its way, and would keep it open."""
    server = await serve(spec, drain_seconds=30)
    watch = stubs.GovernanceServiceStub(dial(server)).WatchTasks(pb.WatchTasksRequest())
    first = asyncio.ensure_future(anext(watch))
    await puppet.entered.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(server.stop(), 10)
    with contextlib.suppress(NanoclawError):
        await first


async def test_a_stream_that_comes_while_it_stops_is_sent_away(serve, dial, spec, puppet):
    """Requested before the stop, begun after it: it would be in nobody's list and hold the stop up."""
    server = await serve(spec)
    server._streams.stop()
    with pytest.raises(NanoclawError) as caught:
        await anext(stubs.GovernanceServiceStub(dial(server)).WatchTasks(pb.WatchTasksRequest()))
    assert caught.value.reason == "STOPPING"
    assert not puppet.entered.is_set()


async def test_a_stop_cancels_what_outlives_the_drain_time(serve, dial, spec, puppet):
    """A stuck handler does not keep the process."""
    cancelled = asyncio.Event()

    async def stuck(_request):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    puppet.on_get = stuck
    server = await serve(spec, drain_seconds=0.05)
    stub = stubs.GovernanceServiceStub(dial(server, attempts=1, timeout=30))
    call = asyncio.create_task(stub.GetTask(pb.GetTaskRequest()))
    await puppet.entered.wait()
    await asyncio.wait_for(server.stop(), 10)
    await asyncio.wait_for(cancelled.wait(), 10)
    with pytest.raises(NanoclawError) as caught:
        await call
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_a_watcher_that_leaves_ends_its_handler(serve, dial, spec, puppet):
    """Nothing runs on for who is gone."""
    async with stubs.GovernanceServiceStub(dial(await serve(spec))).WatchTasks(pb.WatchTasksRequest()) as watch:
        await anext(watch)
    async with asyncio.timeout(10):
        while not puppet.watch_ended:
            await asyncio.sleep(0.01)


SERVICE = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from nanoclaw.governance.v1 import governance_pb2 as pb, governance_pb2_grpc as stubs
    from nanoclaw_rpc import Access, Credentials, Server, ServiceSpec, serve_until_signalled
    from nanoclaw_telemetry import setup

    class Slow(stubs.GovernanceServiceServicer):
        async def GetTask(self, request, context):
            print("entered", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            return pb.GetTaskResponse(task=pb.Task(id="done"))

    async def main(home):
        rpcs = pb.DESCRIPTOR.services_by_name["GovernanceService"].methods_by_name
        spec = ServiceSpec("nanoclaw.governance.v1.GovernanceService", stubs.add_GovernanceServiceServicer_to_server,
                           Slow(), dict.fromkeys(rpcs, frozenset({Access.ADMIN})))
        server = Server(listen=[f"unix:{home}/run/s.sock"], services=[spec],
                        credentials=Credentials.open(home / "secrets"), drain_seconds=20)
        await serve_until_signalled(server, ready=lambda: print("ready", flush=True))
        print("closed", flush=True)

    setup("slow", {})
    asyncio.run(main(Path(sys.argv[1])))
    """
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_the_process_exits_0(dial, home, number):
    """The call under way is answered, the socket is gone, the recipe goes on to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, str(home), stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert await process.stdout.readline() == b"ready\n"
        stub = stubs.GovernanceServiceStub(dial(f"unix:{home}/run/s.sock", timeout=30))
        call = asyncio.create_task(stub.GetTask(pb.GetTaskRequest()))
        assert await process.stdout.readline() == b"entered\n"
        process.send_signal(number)
        process.stdin.write(b"go\n")
        await process.stdin.drain()
        assert (await call).task.id == "done"
        assert await process.stdout.readline() == b"closed\n"
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert not (home / "run/s.sock").exists()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def test_a_start_that_fails_is_told_by_serve_until_signalled(spec, credentials):
    """A main ends with the reason instead of waiting for a signal."""
    with pytest.raises(NanoclawError):
        await serve_until_signalled(Server(listen=["0.0.0.0:1"], services=[spec], credentials=credentials))


async def test_without_a_server_the_client_says_so(home):
    """UNAVAILABLE, as an error of ours."""
    async with connect(f"unix:{home}/run/nobody.sock", attempts=1) as channel:
        with pytest.raises(NanoclawError) as caught:
            await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert caught.value.kind is Kind.UNAVAILABLE
    assert isinstance(channel, grpc.aio.Channel)
