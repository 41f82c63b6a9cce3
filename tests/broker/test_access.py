"""Who may call what, and what they see of others."""

import json
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.access import ACCESS
from nanoclaw_broker.servicer import BrokerServicer, spec
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Role
from nanoclaw_rpc import Access, Credentials, on_behalf
from nanoclaw_rpc.testing import permitted, unlisted

READERS = {Access.ADMIN, Access.APPROVER, Access.VIEWER, Access.GROUP, Access.SERVICE}
EXPECTED: dict[str, set[Access]] = {
    "Call": {Access.GROUP, Access.ADMIN},
    "ExplainCall": READERS,
    "GetCall": READERS,
    "ListCalls": READERS,
    "Settle": {Access.ADMIN},
    "ListPendingCalls": READERS,
    "ApproveCall": {Access.ADMIN, Access.APPROVER, Access.GROUP},
    "RejectCall": {Access.ADMIN, Access.APPROVER, Access.GROUP},
    "Freeze": {Access.ADMIN, Access.MAIN},
    "Unfreeze": {Access.ADMIN},
    "ListFreezes": READERS,
    "Grant": {Access.ADMIN, Access.MAIN},
    "Revoke": {Access.ADMIN, Access.MAIN},
    "ListCapabilities": READERS,
    "ListProviders": READERS,
    "WatchCapabilities": READERS - {Access.GROUP},
    "OpenRelay": {Access.DISPATCHER},
    "CloseRelay": {Access.DISPATCHER},
    "GetStatus": READERS,
}


def test_every_rpc_is_listed_and_open_to_whom_it_should_be() -> None:
    """An RPC that is not in the table is refused; this list is the one that a reviewer reads."""
    service = spec(BrokerServicer.__new__(BrokerServicer))
    assert not unlisted(service)
    assert {(rpc, access) for rpc, access, allowed in permitted(service) if allowed} == {
        (rpc, access) for rpc, classes in EXPECTED.items() for access in classes
    }
    assert ACCESS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("rpc", ["Grant", "Revoke", "Settle", "Call", "WatchCapabilities"])
async def test_those_not_listed_are_refused(broker: Any, credentials: Credentials, rpc: str) -> None:
    """A viewer, a group and a service each get NOT_PERMITTED where the table says so."""
    credentials.add_operator("vera", Role.VIEWER)
    request = getattr(pb, f"{rpc}Request")(**{} if rpc == "WatchCapabilities" else {"request_id": "r"})
    tried = {
        Access.VIEWER: (broker.stub("operator:vera"), ()),
        Access.GROUP: (broker.gateway, on_behalf("developer")),
        Access.SERVICE: (broker.stub("service:dispatcher"), ()),
    }
    for access, (stub, metadata) in tried.items():
        if access in EXPECTED[rpc]:
            continue
        with pytest.raises(NanoclawError) as raised:
            answer = getattr(stub, rpc)(request, metadata=metadata)
            await (answer.read() if rpc == "WatchCapabilities" else answer)
        assert (raised.value.kind, raised.value.reason) == (Kind.DENIED, "NOT_PERMITTED"), access


async def test_only_the_gateway_speaks_for_groups(broker: Any) -> None:
    """An admin or another service that claims to be a group is refused."""
    for principal in ("operator:founder", "service:dispatcher"):
        with pytest.raises(NanoclawError) as raised:
            await broker.stub(principal).Call(
                pb.CallRequest(request_id="r", provider="count", action="look"), metadata=on_behalf("developer")
            )
        assert raised.value.reason == "FOREIGN_ATTESTATION"


async def test_an_agent_sees_its_own_calls_and_grants_only(broker: Any) -> None:
    """By list, by id, by request_id, by explanation; main, operators and services see all."""
    await broker.grant("count", pb.ACCESS_LEVEL_L1)
    await broker.grant("count", pb.ACCESS_LEVEL_L1, group="sales")
    mine = await broker.call("count", "look", request_id="mine")
    theirs = await broker.call("count", "look", request_id="theirs", group="sales")
    agent, main = on_behalf("developer"), on_behalf("main")

    listed = await broker.gateway.ListCalls(pb.ListCallsRequest(), metadata=agent)
    assert [call.call_id for call in listed.calls] == [mine.call_id]
    grants = await broker.gateway.ListCapabilities(pb.ListCapabilitiesRequest(), metadata=agent)
    assert [one.capability.group for one in grants.capabilities] == ["developer"]
    own = await broker.gateway.GetCall(pb.GetCallRequest(request_id="mine"), metadata=agent)
    assert (own.call.call_id, own.answer.data_json) == (mine.call_id, mine.data_json)

    for refused, request in (
        ("GetCall", pb.GetCallRequest(call_id=theirs.call_id)),
        ("GetCall", pb.GetCallRequest(request_id="theirs")),
        ("GetCall", pb.GetCallRequest(group="sales", request_id="theirs")),
        ("ListCalls", pb.ListCallsRequest(group="sales")),
        ("ListCapabilities", pb.ListCapabilitiesRequest(group="sales")),
        ("ExplainCall", pb.ExplainCallRequest(provider="count", action="look", group="sales")),
    ):
        with pytest.raises(NanoclawError) as raised:
            await getattr(broker.gateway, refused)(request, metadata=agent)
        assert raised.value.reason in ("CALL_NOT_FOUND", "OTHER_GROUP")

    for stub, metadata in ((broker.gateway, main), (broker.founder, ()), (broker.stub("service:governance"), ())):
        everybody = await stub.ListCalls(pb.ListCallsRequest(), metadata=metadata)
        assert {call.call_id for call in everybody.calls} == {mine.call_id, theirs.call_id}
        assert (
            await stub.GetCall(pb.GetCallRequest(call_id=mine.call_id), metadata=metadata)
        ).call.group == "developer"
    with pytest.raises(NanoclawError) as raised:
        await broker.gateway.ExplainCall(
            pb.ExplainCallRequest(provider="count", action="look", group="sales"), metadata=main
        )
    assert raised.value.reason == "OTHER_GROUP"


async def test_a_service_names_the_group_to_explain_for(broker: Any) -> None:
    """There is none to assume; an operator is explained to for themselves."""
    request = pb.ExplainCallRequest(provider="count", action="look")
    with pytest.raises(NanoclawError) as raised:
        await broker.gateway.ExplainCall(request)
    assert raised.value.violations[0].field == "group"
    assert (await broker.founder.ExplainCall(request)).code == "NO_CAPABILITY"


async def test_a_person_needs_a_grant_like_everybody_else(broker: Any, counter: Any) -> None:
    """An admin's own call meets the same checks; its grant is for the person, and no group can be called so."""
    request = pb.CallRequest(request_id="p1", provider="count", action="look")
    denied = await broker.founder.Call(request)
    assert (denied.code, json.loads(denied.facts["grant"])["group"]) == ("NO_CAPABILITY", "operator:founder")
    await broker.grant("count", pb.ACCESS_LEVEL_L1, group="operator:founder")
    request.request_id = "p2"
    answer = await broker.founder.Call(request)
    assert (answer.code, (await broker.record(answer.call_id)).group) == ("OK", "operator:founder")
    request.attestation.signature = pb.Attestation.SIGNATURE_VALID
    with pytest.raises(NanoclawError) as raised:
        await broker.founder.Call(request)
    assert raised.value.reason == "ATTESTATION_NOT_YOURS"
    with pytest.raises(NanoclawError):
        await broker.grant("count", group="operator:../x")
    assert counter.effects == 1


@pytest.mark.parametrize(
    "request_", [pb.GetCallRequest(), pb.GetCallRequest(request_id="r"), pb.GetCallRequest(call_id="x")]
)
async def test_a_call_that_is_not_there_is_not_found(broker: Any, request_: pb.GetCallRequest) -> None:
    """Nor one that is not named."""
    with pytest.raises(NanoclawError) as raised:
        await broker.founder.GetCall(request_)
    assert raised.value.kind in (Kind.NOT_FOUND, Kind.INVALID)
