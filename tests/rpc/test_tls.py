"""Over TCP with TLS both ends prove who they are by certificate, and nobody else gets in or is talked to."""

import os
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Caller, Role
from nanoclaw_rpc import Server, Tls, connect, current_caller, issuing, on_behalf
from nanoclaw_rpc.authority import Authority
from nanoclaw_rpc.peers import Peers
from nanoclaw_rpc.server import OPTIONS
from nanoclaw_rpc.status import from_rpc_error
from nanoclaw_rpc.tls import folder_of

ALL = [f"service:{name}" for name in ("governance", "broker", "dispatcher", "gateway", "ops")] + ["operator:founder"]


@pytest.fixture
def puppet(puppet):
    """Remembers who called."""
    puppet.callers = []

    def keep(_request):
        puppet.callers.append(current_caller())
        return pb.GetTaskResponse()

    puppet.on_get = keep
    return puppet


@pytest.fixture
async def governance(serve, spec, tls):
    """Governance on a loopback port with TLS."""
    return await serve(spec, listen=["127.0.0.1:0"], tls=tls("service:governance"))


async def call(address, credentials=None, metadata=(), name="governance"):
    """A call of grpc's own, with those channel credentials; answers the error, None when it was let in."""
    options = (*OPTIONS, ("grpc.ssl_target_name_override", name), ("grpc.enable_retries", 0))
    channel = (
        grpc.aio.secure_channel(address, credentials, options=options)
        if credentials
        else grpc.aio.insecure_channel(address, options=OPTIONS)
    )
    async with channel:
        try:
            await channel.unary_unary(f"/{NAME}/GetTask")(b"", metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as failed:
            return from_rpc_error(failed)
    return None


NAME = "nanoclaw.governance.v1.GovernanceService"


def channel_credentials(own: Tls | None, trusted: Tls):
    if own is None:
        return grpc.ssl_channel_credentials(trusted.ca.read_bytes())
    return grpc.ssl_channel_credentials(trusted.ca.read_bytes(), own.key.read_bytes(), own.certificate.read_bytes())


@pytest.mark.parametrize("principal", ALL)
async def test_a_certificate_makes_its_principal_the_caller(governance, dial, tls, puppet, principal):
    """No token needed; an operator has the role that the list of credentials gives."""
    channel = dial(governance, None, tls=tls(principal), peer="governance")
    await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert puppet.callers == [Caller(principal, Role.ADMIN if principal == "operator:founder" else Role.NONE)]


async def test_the_certificate_is_the_credential_and_no_token_travels_beside_it(governance, dial, tls, puppet):
    """What is not sent cannot be stolen, and homes need not share tokens."""
    channel = dial(governance, "service:broker", tls=tls("service:broker"), peer="governance")
    await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert "authorization" not in {key for key, _ in puppet.contexts[0].invocation_metadata()}


async def test_a_token_beside_a_certificate_must_be_of_the_same_principal(log_lines, governance, tls, bearer, puppet):
    """Who stole a token of another service cannot use it from their own; the audit line says whose was whose."""
    broker = channel_credentials(tls("service:broker"), tls("service:broker"))
    assert await call(governance.addresses[0], broker, bearer("service:broker")) is None
    for other in ("service:governance", "operator:founder"):
        error = await call(governance.addresses[0], broker, bearer(other))
        assert (error.kind, error.reason) == (Kind.UNAUTHENTICATED, "CREDENTIAL_MISMATCH")
    error = await call(governance.addresses[0], broker, (("authorization", "Bearer nct_wrong"),))
    assert error.reason == "UNKNOWN_CREDENTIAL"
    assert [caller.principal for caller in puppet.callers] == ["service:broker"]
    refused = [line for line in log_lines() if line.get("reason") == "CREDENTIAL_MISMATCH"]
    assert [line["level"] for line in refused] == ["warning", "warning"]
    assert refused[1]["message"] == "the certificate is of service:broker, the token of operator:founder"


async def test_only_the_gateways_certificate_speaks_for_a_group(governance, dial, tls, puppet):
    """As with tokens."""
    channel = dial(governance, None, tls=tls("service:gateway"), peer="governance")
    await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest(), metadata=on_behalf("developer", "nc-1-1"))
    assert puppet.callers == [Caller("group:developer", via="service:gateway", attempt="nc-1-1")]
    for principal in set(ALL) - {"service:gateway"}:
        channel = dial(governance, None, tls=tls(principal), peer="governance")
        with pytest.raises(NanoclawError) as caught:
            await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest(), metadata=on_behalf("main"))
        assert caught.value.reason == "FOREIGN_ATTESTATION"


async def test_an_operator_who_was_removed_is_refused_at_once_whatever_the_certificate_says(
    governance, dial, tls, authority, credentials, puppet
):
    """The list of credentials decides who there is: a certificate proves a name, it does not keep one alive."""
    credentials.add_operator("ana", Role.VIEWER)
    authority.issue("operator:ana", days=30)
    stub = stubs.GovernanceServiceStub(dial(governance, None, tls=tls("operator:ana"), peer="governance"))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest())
    assert caught.value.reason == "NOT_PERMITTED", "known, as a viewer"
    credentials.remove("operator:ana")
    time.sleep(0.06)  # the list is looked at every 50 ms
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest())
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAUTHENTICATED, "UNKNOWN_PRINCIPAL")


def stranger(home: Path) -> Tls:
    """A broker's certificate from another authority."""
    Authority(home / "elsewhere").create(days=30, authority_days=60, hosts={})
    return Tls(folder_of(home / "elsewhere", "service:broker"), "service:broker")


def expired(home: Path) -> Tls:
    """A broker's certificate of our authority, which ended yesterday."""
    old = Authority(home / "secrets", now=lambda: datetime.now(UTC) - timedelta(days=31))
    old.renew(["service:broker"], days=30)
    return Tls(folder_of(home / "secrets", "service:broker"), "service:broker")


SERVICE = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from nanoclaw.governance.v1 import governance_pb2 as pb, governance_pb2_grpc as stubs
    from nanoclaw_rpc import Access, Credentials, Server, ServiceSpec, Tls, serve_until_signalled
    from nanoclaw_rpc.tls import folder_of

    async def main(home):
        rpcs = pb.DESCRIPTOR.services_by_name["GovernanceService"].methods_by_name
        spec = ServiceSpec("nanoclaw.governance.v1.GovernanceService", stubs.add_GovernanceServiceServicer_to_server,
                           stubs.GovernanceServiceServicer(), dict.fromkeys(rpcs, frozenset({Access.ADMIN})))
        tls = Tls(folder_of(home / "secrets", "service:governance"), "service:governance")
        server = Server(listen=["127.0.0.1:0"], services=[spec], tls=tls,
                        credentials=Credentials.open(home / "secrets"))
        await serve_until_signalled(server, ready=lambda: print(server.addresses[0], flush=True))

    asyncio.run(main(Path(sys.argv[1])))
    """
)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda home: None, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        (stranger, "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate"),
        (expired, "CERTIFICATE_VERIFY_FAILED: certificate has expired"),
    ],
    ids=["none", "of another authority", "expired"],
)
async def test_who_has_no_good_certificate_gets_no_connection_and_the_log_says_why(home, tls, make, reason):
    """Refused in the handshake, before any RPC. grpc itself writes the reason to the service's log, which is stderr."""
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(home)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        trusted = tls("service:governance")
        known = await call(address, channel_credentials(tls("operator:founder"), trusted))
        assert known is not None
        assert known.reason == "NOT_IMPLEMENTED", "it got as far as the servicer"
        refused = await call(address, channel_credentials(make(home), trusted))
        assert refused is not None
        assert (refused.kind, refused.reason) == (Kind.UNAVAILABLE, "HANDSHAKE_REFUSED")
    finally:
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert reason in log


async def test_clear_text_gets_no_connection_to_a_tls_port(governance, puppet, bearer):
    """Not with a good token either."""
    error = await call(governance.addresses[0], None, bearer("operator:founder"))
    assert error.reason == "HANDSHAKE_REFUSED"
    assert puppet.seen == []


async def test_a_certificate_that_names_no_principal_is_nobody(governance, tls, authority, home):
    """Of our authority, but with a name of another scheme."""
    ca = authority.authorities()[0]
    key = load_pem_private_key(authority.key.read_bytes(), None)
    for principal in ("group:main", "service:Broker", "operator:", "operator:a/../service"):
        made, own = issuing.certificate(principal, [], ca, key, datetime.now(UTC), timedelta(days=1))  # type: ignore[arg-type]
        credentials = grpc.ssl_channel_credentials(
            authority.bundle.read_bytes(), issuing.key_pem(own).encode(), issuing.pem(made).encode()
        )
        error = await call(governance.addresses[0], credentials)
        assert (error.kind, error.reason) == (Kind.UNAUTHENTICATED, "UNKNOWN_CERTIFICATE"), principal


async def test_the_client_talks_to_nobody_but_the_service_that_it_means(serve, dial, spec, tls, puppet):
    """The broker's certificate at governance's address: refused by the client, which sends nothing."""
    server = await serve(spec, listen=["127.0.0.1:0"], tls=tls("service:broker"))
    channel = dial(server, None, tls=tls("service:gateway"), peer="governance", attempts=1)
    with pytest.raises(NanoclawError) as caught:
        await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "PEER_IS_ANOTHER")
    assert puppet.seen == []


async def test_the_client_talks_to_nobody_whom_its_own_authority_does_not_vouch_for(
    serve, dial, spec, home, tls, puppet
):
    """The right name from the wrong authority."""
    Authority(home / "elsewhere").create(days=30, authority_days=60, hosts={})
    false = Tls(folder_of(home / "elsewhere", "service:governance"), "service:governance")
    server = await serve(spec, listen=["127.0.0.1:0"], tls=false)
    channel = dial(server, None, tls=tls("service:gateway"), peer="governance", attempts=1)
    with pytest.raises(NanoclawError) as caught:
        await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "HANDSHAKE_FAILED")
    assert puppet.seen == []


async def test_an_operators_certificate_cannot_serve(serve, dial, spec, tls, credentials, authority, puppet):
    """Not even one who is called as a service is: the purpose in the certificate says client."""
    credentials.add_operator("governance", Role.VIEWER)
    authority.issue("operator:governance", days=30)
    server = await serve(spec, listen=["127.0.0.1:0"], tls=tls("operator:governance"))
    channel = dial(server, None, tls=tls("service:gateway"), peer="governance", attempts=1)
    with pytest.raises(NanoclawError) as caught:
        await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "unsupported certificate purpose" in caught.value.message
    assert puppet.seen == []


async def test_a_tls_address_without_the_name_of_a_service_is_not_dialled(tls):
    """Whoever dials says whom they mean."""
    with pytest.raises(NanoclawError) as caught:
        connect("127.0.0.1:1", tls=tls("service:broker"))
    assert caught.value.reason == "NO_PEER_NAME"


async def test_unix_sockets_of_a_tls_server_take_tokens_as_ever(serve, dial, spec, tls, home, puppet):
    """The socket's owner is its guard; the probe of a container needs no certificate."""
    server = await serve(spec, listen=[f"unix:{home}/run/g.sock", "127.0.0.1:0"], tls=tls("service:governance"))
    channel = dial(server.addresses[0], "service:broker", tls=tls("service:gateway"), peer="governance")
    await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert puppet.callers == [Caller("service:broker")]
    error = await call(server.addresses[0])
    assert error.reason == "NO_CREDENTIAL"
    health = health_pb2_grpc.HealthStub(dial(server.addresses[0], None))
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1


async def test_with_tls_it_may_listen_beyond_the_machine(serve, dial, spec, tls, log_lines):
    """Told so by the address alone; nothing there is in clear text, so nothing is warned of."""
    server = await serve(spec, listen=["0.0.0.0:0"], tls=tls("service:governance"))
    address = server.addresses[0].replace("0.0.0.0", "127.0.0.1")
    channel = dial(address, None, tls=tls("service:broker"), peer="governance")
    assert await stubs.GovernanceServiceStub(channel).GetTask(pb.GetTaskRequest())
    assert not any("beyond this machine" in line["event"] for line in log_lines())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tls: tls.key.unlink(), "CERTIFICATE_UNREADABLE"),
        (lambda tls: tls.ca.write_text("nonsense"), "CERTIFICATE_UNREADABLE"),
        (lambda tls: tls.certificate.write_text(""), "CERTIFICATE_UNREADABLE"),
        (lambda tls: tls.key.write_bytes((tls.folder.parent / "broker" / "tls.key").read_bytes()), "not the key"),
    ],
    ids=["no key", "no bundle", "no certificate", "another's key"],
)
async def test_a_server_does_not_start_with_files_that_do_not_belong_together(spec, credentials, tls, spoil, reason):
    """The first error names the folder and what is wrong with it."""
    own = tls("service:governance")
    spoil(own)
    with pytest.raises(NanoclawError) as caught:
        await Server(listen=["127.0.0.1:0"], services=[spec], credentials=credentials, tls=own).start()
    assert reason in f"{caught.value.reason} {caught.value.message}"
    assert str(own.folder) in caught.value.message
    assert caught.value.next_step


async def test_a_service_does_not_start_with_the_certificate_of_another(spec, credentials, tls):
    """One folder given to two services would make them one principal."""
    wrong = Tls(tls("service:broker").folder, "service:governance")
    for start in (
        Server(listen=["127.0.0.1:0"], services=[spec], credentials=credentials, tls=wrong).start,
        lambda: connect("127.0.0.1:1", tls=wrong, peer="broker"),
    ):
        with pytest.raises(NanoclawError) as caught:
            await start()
        assert caught.value.reason == "CERTIFICATE_OF_ANOTHER"


class Connection:
    """What grpc tells of a connection."""

    def __init__(self, pem: bytes | None, kind: bytes = b"ssl") -> None:
        self.facts = {"transport_security_type": [kind]} | ({"x509_pem_cert": [pem]} if pem else {})

    def auth_context(self) -> dict[str, list[bytes]]:
        return self.facts


def test_a_certificate_is_parsed_once_and_not_for_each_call(tls, monkeypatch):
    """The hot path looks a principal up by the certificate's bytes."""
    parsed = []
    parse = x509.load_pem_x509_certificate
    monkeypatch.setattr(
        "nanoclaw_rpc.peers.x509.load_pem_x509_certificate", lambda pem: parsed.append(pem) or parse(pem)
    )
    peers = Peers()
    for _ in range(3):
        for name in ("broker", "gateway"):
            pem = tls(f"service:{name}").certificate.read_bytes()
            assert peers.principal(Connection(pem)) == f"service:{name}"
    assert len(parsed) == 2


def test_a_connection_does_not_outlive_its_certificate(tls):
    """The handshake was years ago, the certificate has ended since."""
    now = [time.time()]
    peers = Peers(now=lambda: now[0])
    connection = Connection(tls("service:broker").certificate.read_bytes())
    assert peers.principal(connection) == "service:broker"
    now[0] += 31 * 86400
    with pytest.raises(NanoclawError) as caught:
        peers.principal(connection)
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAUTHENTICATED, "EXPIRED_CERTIFICATE")


def test_a_tls_connection_without_a_certificate_is_nobodys_and_never_falls_back_to_tokens():
    """grpc does not let one through today; if it ever does, it ends here."""
    with pytest.raises(NanoclawError) as caught:
        Peers().principal(Connection(None))
    assert caught.value.reason == "NO_CERTIFICATE"
    assert Peers().principal(Connection(None, b"insecure")) == ""
