"""Who may call what of the dispatcher, enumerated and over the wire."""

from typing import Any

import pytest
import world as w

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as pb
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Role
from nanoclaw_dispatcher.__main__ import NAME
from nanoclaw_dispatcher.access import ACCESS
from nanoclaw_dispatcher.servicer import Dispatcher
from nanoclaw_rpc import Access, Credentials, ServiceSpec, on_behalf
from nanoclaw_rpc.testing import permitted, rpcs, unlisted

READERS = {Access.ADMIN, Access.APPROVER, Access.VIEWER, Access.MAIN, Access.SERVICE}
OWNERS = {Access.ADMIN, Access.MAIN}
EXPECTED = {
    "ListDispatches": READERS,
    "GetDispatch": READERS,
    "RetryDispatch": OWNERS,
    "CancelDispatch": OWNERS,
    "WatchDispatches": READERS,
    "ListGroups": READERS,
    "GetStatus": READERS,
}
SPEC = ServiceSpec(
    NAME, dispatcher_pb2_grpc.add_DispatcherServiceServicer_to_server, Dispatcher.__new__(Dispatcher), ACCESS
)
WHO = [
    ("operator:founder", "", {Access.ADMIN}),
    ("operator:ana", "", {Access.APPROVER}),
    ("operator:vic", "", {Access.VIEWER}),
    ("service:gateway", "main", {Access.MAIN, Access.GROUP}),
    ("service:gateway", "developer", {Access.GROUP}),
    *((f"service:{name}", "", {Access.SERVICE}) for name in ("governance", "broker", "dispatcher", "gateway", "ops")),
]


def test_every_rpc_is_listed_and_open_to_whom_it_should_be() -> None:
    """An RPC that is not in the table is refused; this list is the one that a reviewer reads."""
    assert unlisted(SPEC) == []
    assert set(rpcs(SPEC)) == set(EXPECTED)
    assert {(rpc, access) for rpc, access, allowed in permitted(SPEC) if allowed} == {
        (rpc, access) for rpc, classes in EXPECTED.items() for access in classes
    }


async def test_who_may_not_call_is_refused_over_the_wire(world: Any, credentials: Credentials) -> None:
    """With real credentials: those outside the table get NOT_PERMITTED, the others get past it."""
    credentials.add_operator("ana", Role.APPROVER)
    credentials.add_operator("vic", Role.VIEWER)
    one = await world.dispatcher()
    for principal, group, classes in WHO:
        stub = await world.api(one, principal)
        for rpc, allowed in EXPECTED.items():
            call = getattr(stub, rpc)(getattr(pb, f"{rpc}Request")(), metadata=on_behalf(group) if group else None)
            try:
                if rpc == "WatchDispatches":
                    await call.read()
                    call.cancel()
                else:
                    await call
                outcome = ""
            except NanoclawError as error:
                outcome = error.reason
            assert (outcome == "NOT_PERMITTED") == (not classes & allowed), (principal, group, rpc, outcome)


async def test_nobody_gets_in_without_a_credential(world: Any) -> None:
    """Nor does a header make a group."""
    one = await world.dispatcher()
    with pytest.raises(NanoclawError) as refused:
        await (await world.api(one, None)).GetStatus(pb.GetStatusRequest())
    assert refused.value.kind is Kind.UNAUTHENTICATED
    with pytest.raises(NanoclawError) as refused:
        request = pb.CancelDispatchRequest(request_id="c", dispatch_id="x", reason="because")
        await (await world.api(one, "service:ops")).CancelDispatch(request, metadata=on_behalf("main"))
    assert refused.value.reason == "FOREIGN_ATTESTATION"


async def test_main_cancels_in_its_own_name(world: Any) -> None:
    """Through the gateway, and the log says both."""
    world.fake.agent = w.fake_runtime.idle_agent
    one = await world.dispatcher()
    await world.operator.ready("t1")
    await world.until(lambda: world.fake.running)
    (dispatch,) = world.dispatches()
    gateway = await world.api(one, "service:gateway")
    await gateway.CancelDispatch(w.pb_cancel(dispatch["id"], "not now"), metadata=on_behalf("main"))
    await world.at("t1", "BLOCKED")
    (wish,) = [row for row in world.log() if row["action"] == "request_cancel"]
    assert (wish["principal"], wish["via"], wish["reason"]) == ("group:main", "service:gateway", "not now")
