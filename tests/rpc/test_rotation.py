"""Certificates and authorities are changed under the feet of running servers and channels, and no call notices."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import grpc
import pytest
from cryptography import x509

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import Tls, connect, private
from nanoclaw_rpc.certificates import read
from nanoclaw_rpc.handshake import Handshake
from nanoclaw_rpc.secure import SecureChannel


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    """A channel looks at its files for every call, not twice a second."""
    monkeypatch.setattr("nanoclaw_rpc.secure._LOOK_SECONDS", 0.0)


@pytest.fixture
async def governance(serve, spec, tls):
    return await serve(spec, listen=["127.0.0.1:0"], tls=tls("service:governance"))


@pytest.fixture
def stub(governance, dial, tls):
    """The broker's, towards governance. One attempt a call: what fails is seen."""
    channel = dial(governance, None, tls=tls("service:broker"), peer="governance", attempts=1)
    return stubs.GovernanceServiceStub(channel)


class Traffic:
    """Calls without a pause, each counted."""

    def __init__(self, stub) -> None:
        self.stub = stub
        self.done = 0

    async def run(self) -> None:
        while True:
            await self.stub.GetTask(pb.GetTaskRequest())
            self.done += 1

    async def more(self, number: int = 20) -> None:
        """Waits until so many further ones have passed."""
        goal = self.done + number
        async with asyncio.timeout(20):
            while self.done < goal:
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def traffic(*stubs_) -> AsyncIterator[list[Traffic]]:
    """Calls go on inside; a single one that fails fails the test."""
    running = [Traffic(stub) for stub in stubs_]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in running]
        for one in running:
            await one.more(5)
        yield running
        for one in running:
            await one.more()
        for task in tasks:
            task.cancel()


@pytest.fixture
def came(puppet):
    """What is known of each call's connection: the certificate's serial number, and where it came from."""
    seen: list[tuple[int, str]] = []

    def look(_request):
        pem = puppet.contexts[-1].auth_context()["x509_pem_cert"][0]
        seen.append((x509.load_pem_x509_certificate(pem).serial_number, puppet.contexts[-1].peer()))
        return pb.GetTaskResponse()

    puppet.on_get = look
    return seen


def served(address, tls):
    """The certificate that a new handshake gets from the server."""
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.load_cert_chain(str(tls.certificate), str(tls.key))
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname="governance") as wrapped,
    ):
        found = wrapped.getpeercert(binary_form=True)
    assert found
    return x509.load_der_x509_certificate(found)


async def test_calls_go_on_while_all_certificates_are_renewed(governance, stub, dial, tls, authority, came):
    """New handshakes get the new certificate, new calls bring the new one, and not one call fails."""
    other = stubs.GovernanceServiceStub(
        dial(governance, None, tls=tls("service:gateway"), peer="governance", attempts=1)
    )
    async with traffic(stub, other) as running:
        for _ in range(3):
            renewed = {one.principal: one.certificate.serial_number for one in authority.renew(days=30)}
            for one in running:
                await one.more()
            found = await asyncio.to_thread(served, governance.addresses[0], tls("operator:founder"))
            assert found.serial_number == renewed["service:governance"]
            assert came[-1][0] in (renewed["service:broker"], renewed["service:gateway"])


async def test_calls_go_on_while_the_authority_is_replaced(governance, stub, tls, authority):
    """The new one is trusted beside the old, signs all anew, and the old one is trusted no more."""
    old = authority.authorities()
    stolen = read(tls("service:dispatcher"))
    async with traffic(stub) as (calls,):
        authority.succeed(days=60)
        await calls.more()
        assert len(authority.authorities()) == 2
        authority.renew(days=30)
        await calls.more()
        assert authority.retire() == old
        await calls.more()
        found = await asyncio.to_thread(served, governance.addresses[0], tls("operator:founder"))
        found.verify_directly_issued_by(authority.authorities()[0])
    credentials = grpc.ssl_channel_credentials(authority.bundle.read_bytes(), stolen.key, stolen.certificate)
    options = (("grpc.ssl_target_name_override", "governance"),)
    async with grpc.aio.secure_channel(governance.addresses[0], credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_goes_on_over_its_old_connection_while_new_calls_use_the_new(governance, dial, tls, authority):
    """A watcher is not thrown out by a renewal; the old connection is closed when it leaves."""
    channel = dial(governance, None, tls=tls("operator:founder"), peer="governance", attempts=1)
    secure = channel._channel
    assert isinstance(secure, SecureChannel)
    stub = stubs.GovernanceServiceStub(channel)
    watch = stub.WatchTasks(pb.WatchTasksRequest())
    await anext(watch)
    before = secure._current
    authority.renew(days=30)
    await stub.GetTask(pb.GetTaskRequest())
    assert secure._current is not before
    assert not watch.done()
    assert not before.closed
    watch.cancel()
    async with asyncio.timeout(10):
        while not before.closed:
            await asyncio.sleep(0.005)


async def test_files_half_way_through_a_change_leave_the_old_ones_in_force(
    log_lines, governance, stub, tls, authority, came
):
    """A new certificate beside the old key is reported and not used; once the new key is there, both are."""
    own = tls("service:broker")
    old_key = own.key.read_text()
    await stub.GetTask(pb.GetTaskRequest())
    authority.renew(["service:broker"], days=30)
    new_key = own.key.read_text()
    private.write(own.key, old_key)
    await stub.GetTask(pb.GetTaskRequest())
    private.write(own.key, new_key)
    await stub.GetTask(pb.GetTaskRequest())
    first, second, third = (number for number, _ in came)
    assert first == second != third
    events: list[str] = []
    async with asyncio.timeout(10):
        while "certificate reloaded" not in events:
            await asyncio.sleep(0.005)
            events = [line["event"] for line in log_lines() if line["event"].startswith("certificate ")]
    assert events == ["certificate not reloaded", "certificate reloaded"]


async def test_a_certificate_that_ends_soon_is_told_of(log_lines, tls, authority):
    """At the start and at each renewal, before anybody is locked out."""
    authority.renew(["service:broker"], days=13)
    Handshake(tls("service:broker"))
    Handshake(tls("service:gateway"))
    told = [line for line in log_lines() if line["event"] == "certificate expires soon"]
    assert [line["principal"] for line in told] == ["service:broker"]
    assert "nanoclaw certs renew" in told[0]["next_step"]


async def test_a_tls_connection_has_an_end_which_its_calls_do_not_notice(serve, dial, spec, tls, came):
    """Who was let in under certificates that are good no more is asked for new ones.

    A call that is sent as the connection ends is UNAVAILABLE, and tried again as ever.
    """
    server = await serve(spec, listen=["127.0.0.1:0"], tls=tls("service:governance"), connection_seconds=0.1)
    channel = dial(server, None, tls=tls("service:broker"), peer="governance")
    async with traffic(stubs.GovernanceServiceStub(channel)) as (calls,):
        while len({peer for _, peer in came}) < 4:
            await calls.more(1)


async def test_a_channel_made_before_its_files_are_says_so(home):
    """The first error names the folder."""
    with pytest.raises(NanoclawError) as caught:
        connect("127.0.0.1:1", tls=Tls(home / "nowhere", "service:broker"), peer="governance")
    assert caught.value.reason == "CERTIFICATE_UNREADABLE"
    assert str(home / "nowhere") in caught.value.message
