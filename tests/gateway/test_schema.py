"""tables.py and the migrations say the same, and no RPC is forgotten."""

from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.gateway.v1.gateway_pb2_grpc import add_GatewayServiceServicer_to_server
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_ipc_gateway.access import ACCESS
from nanoclaw_ipc_gateway.gateway import SERVICE
from nanoclaw_ipc_gateway.servicer import Servicer
from nanoclaw_ipc_gateway.tables import METADATA, SLICE
from nanoclaw_rpc import Access, ServiceSpec, on_behalf
from nanoclaw_rpc.testing import permitted, unlisted
from nanoclaw_store.testing import assert_schema_matches

SPEC = ServiceSpec(
    SERVICE,
    add_GatewayServiceServicer_to_server,
    Servicer(None, None, None, None),
    ACCESS,  # type: ignore[arg-type]
)
PEOPLE = {Access.ADMIN, Access.APPROVER, Access.VIEWER, Access.OPS}
EXPECTED = {
    "OpenMailbox": {Access.DISPATCHER},
    "CloseMailbox": {Access.DISPATCHER},
    "Submit": {Access.ADMIN},
    "ListMessages": PEOPLE,
    "WatchMessages": PEOPLE,
    "Reply": {Access.ADMIN, Access.APPROVER},
    "ListQuarantine": PEOPLE,
    "RetryQuarantined": {Access.ADMIN},
    "GetStatus": {Access.ANYONE},
}


def test_the_tables_are_those_of_the_migrations() -> None:
    """Column by column."""
    assert_schema_matches(SLICE, METADATA)


def test_every_rpc_is_listed_with_who_may_call_it() -> None:
    """Written down twice, so that a change of the table is a decision."""
    assert unlisted(SPEC) == []
    allowed: dict[str, set[Access]] = {}
    for rpc, access, passes in permitted(SPEC):
        allowed.setdefault(rpc, set())
        if passes:
            allowed[rpc].add(access)
    assert allowed == EXPECTED


@pytest.mark.parametrize("rpc", sorted(set(EXPECTED) - {"GetStatus"}))
async def test_nobody_else_gets_through(served: Any, rpc: str) -> None:
    """Over the wire, with real credentials: governance and a group are refused everything but the status."""
    request = getattr(gateway, f"{rpc}Request")()
    outsider = served.stub("services/governance")
    for stub, metadata in ((outsider, ()), (served.stub("services/gateway"), on_behalf("main"))):
        with pytest.raises(NanoclawError) as refusal:
            call = getattr(stub, rpc)(request, metadata=metadata)
            if rpc == "WatchMessages":
                async for _ in call:
                    break
            else:
                await call
        assert refusal.value.kind is Kind.DENIED


async def test_the_status_is_for_anybody_with_a_credential(served: Any) -> None:
    """And for nobody without."""
    status = await served.stub("services/governance").GetStatus(gateway.GetStatusRequest())
    assert (status.open_mailboxes, status.requests, status.version != "") == (3, 0, True)
