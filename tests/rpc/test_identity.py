"""The caller's name comes from a verified credential, never from what a caller says about itself."""

import grpc
import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Caller, Role
from nanoclaw_rpc import current_caller, on_behalf

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_makes_its_principal_the_caller(serve, dial, spec):
    """The founder's token is the founder."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    answer = await stub.GetTask(pb.GetTaskRequest(task_id="t"))
    assert answer.task.title == "operator:founder"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "NO_CREDENTIAL"),
        ((("authorization", ""),), "MALFORMED_CREDENTIAL"),
        ((("authorization", "Bearer "),), "MALFORMED_CREDENTIAL"),
        ((("authorization", "Basic Zm91bmRlcjp4"),), "MALFORMED_CREDENTIAL"),
        ((("authorization", "Bearer nct_wrong"),), "UNKNOWN_CREDENTIAL"),
        ((("authorization", "Bearer operator:founder"),), "UNKNOWN_CREDENTIAL"),
        ((("authorization", "Bearer a"), ("authorization", "Bearer b")), "AMBIGUOUS_CREDENTIAL"),
        ((("principal", "operator:founder"), ("x-nanoclaw-principal", "operator:founder")), "NO_CREDENTIAL"),
        ((("nanoclaw-group", "main"),), "NO_CREDENTIAL"),
    ],
)
async def test_without_a_valid_token_nobody_gets_in(serve, raw, spec, puppet, metadata, reason):
    """Refused with a reason, and the servicer never hears of it."""
    code, error = await raw(await serve(spec), metadata)
    assert (code, error.reason) == (UNAUTHENTICATED, reason)
    assert "secrets/operators/founder.token" in error.next_step, "where a credential comes from"
    assert "nanoclaw operator add" in error.next_step
    assert puppet.seen == []


async def test_the_hash_of_a_token_is_no_token(serve, raw, spec, credentials, home):
    """Who reads credentials.json cannot log in with it."""
    import json

    entries = json.loads((home / "secrets/credentials.json").read_text())["principals"]
    server = await serve(spec)
    for entry in entries:
        code, _ = await raw(server, (("authorization", f"Bearer {entry['sha256']}"),))
        assert code is UNAUTHENTICATED


async def test_the_gateway_speaks_for_a_group_and_its_attempt(serve, dial, spec, puppet):
    """The group is the caller, the gateway is how it came, the attempt is the one that the gateway saw."""
    callers: list[Caller] = []

    def keep(_request):
        callers.append(current_caller())
        return pb.GetTaskResponse()

    puppet.on_get = keep
    stub = stubs.GovernanceServiceStub(dial(await serve(spec), "service:gateway"))
    await stub.GetTask(pb.GetTaskRequest(), metadata=on_behalf("developer", "nc-1-1"))
    await stub.GetTask(pb.GetTaskRequest(), metadata=on_behalf("main"))
    await stub.GetTask(pb.GetTaskRequest())
    assert callers == [
        Caller("group:developer", via="service:gateway", attempt="nc-1-1"),
        Caller("group:main", via="service:gateway"),
        Caller("service:gateway"),
    ]


@pytest.mark.parametrize(
    "principal", ["operator:founder", "service:governance", "service:broker", "service:dispatcher", "service:ops"]
)
@pytest.mark.parametrize("metadata", [on_behalf("main"), on_behalf("main", "nc-1-1"), (("nanoclaw-attempt", "a"),)])
async def test_nobody_but_the_gateway_speaks_for_a_group(serve, raw, bearer, spec, puppet, principal, metadata):
    """A claim that its bearer cannot attest is refused whole, not ignored."""
    code, error = await raw(await serve(spec), (*bearer(principal), *metadata))
    assert (code, error.reason) == (UNAUTHENTICATED, "FOREIGN_ATTESTATION")
    assert puppet.seen == []


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((("nanoclaw-group", ""),), "MALFORMED_ATTESTATION"),
        ((("nanoclaw-group", "Main"),), "MALFORMED_ATTESTATION"),
        ((("nanoclaw-group", "a:b"),), "MALFORMED_ATTESTATION"),
        ((("nanoclaw-group", "main"), ("nanoclaw-attempt", "../x")), "MALFORMED_ATTESTATION"),
        ((("nanoclaw-attempt", "nc-1-1"),), "MALFORMED_ATTESTATION"),
        ((("nanoclaw-group", "main"), ("nanoclaw-group", "developer")), "AMBIGUOUS_ATTESTATION"),
        ((*on_behalf("main", "a"), ("nanoclaw-attempt", "b")), "AMBIGUOUS_ATTESTATION"),
    ],
)
async def test_an_attestation_that_is_not_exact_is_refused(serve, raw, bearer, spec, metadata, reason):
    """The gateway's own mistakes do not turn into somebody."""
    code, error = await raw(await serve(spec), (*bearer("service:gateway"), *metadata))
    assert (code, error.reason) == (UNAUTHENTICATED, reason)


async def test_an_operator_added_while_it_runs_gets_in_at_once(serve, dial, spec, credentials):
    """credentials.json is read again when a token is unknown."""
    server = await serve(spec)
    await stubs.GovernanceServiceStub(dial(server)).GetTask(pb.GetTaskRequest())
    credentials.add_operator("ana", Role.ADMIN)
    answer = await stubs.GovernanceServiceStub(dial(server, "operator:ana")).GetTask(pb.GetTaskRequest())
    assert answer.task.title == "operator:ana"


async def test_outside_an_rpc_there_is_no_caller():
    """Code that acts without a caller must not act as one."""
    with pytest.raises(NanoclawError) as caught:
        current_caller()
    assert caught.value.reason == "NO_CALLER"
