"""Every RPC is listed, or it is refused; who may call is decided by the table alone."""

import grpc
import pytest

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Caller, Role
from nanoclaw_rpc import Access, Server, ServiceSpec
from nanoclaw_rpc.access import classes
from nanoclaw_rpc.testing import permitted, rpcs, unlisted

CALLERS = {
    "operator:ana": (Role.ADMIN, {Access.ADMIN}),
    "operator:ben": (Role.APPROVER, {Access.APPROVER}),
    "operator:eve": (Role.VIEWER, {Access.VIEWER}),
    "service:governance": (Role.NONE, {Access.SERVICE, Access.GOVERNANCE}),
    "service:broker": (Role.NONE, {Access.SERVICE, Access.BROKER}),
    "service:dispatcher": (Role.NONE, {Access.SERVICE, Access.DISPATCHER}),
    "service:gateway": (Role.NONE, {Access.SERVICE, Access.GATEWAY}),
    "service:ops": (Role.NONE, {Access.SERVICE, Access.OPS}),
    "group:main": (Role.NONE, {Access.GROUP, Access.MAIN}),
    "group:developer": (Role.NONE, {Access.GROUP}),
}


@pytest.mark.parametrize("principal", CALLERS)
def test_a_caller_belongs_to_its_classes_and_no_other(principal):
    """No class implies another: an admin is no approver unless the table says so."""
    role, expected = CALLERS[principal]
    assert classes(Caller(principal, role)) == expected | {Access.ANYONE}


@pytest.mark.parametrize("principal", ["service:unheard", "group:", "operator:nobody", "robot:x", "admin", ""])
def test_an_unknown_kind_of_caller_belongs_to_none(principal):
    """Fail closed."""
    assert classes(Caller(principal)) == {Access.ANYONE}


def test_a_group_cannot_be_given_an_operator_s_role():
    """Roles are operators'."""
    assert Access.ADMIN not in classes(Caller("group:main", Role.ADMIN))
    assert Access.ADMIN not in classes(Caller("service:gateway", Role.ADMIN))


@pytest.mark.parametrize("access", Access)
async def test_the_wire_agrees_with_the_table_for_every_rpc_and_caller(serve, raw, bearer, spec, credentials, access):
    """Every method of the service, opened to one class: refused with NOT_PERMITTED exactly where the table says so."""
    credentials.add_operator("ana", Role.ADMIN)
    credentials.add_operator("ben", Role.APPROVER)
    credentials.add_operator("eve", Role.VIEWER)
    open_to = dict.fromkeys(spec.access, frozenset({access}))
    server = await serve(ServiceSpec(spec.name, spec.add, spec.servicer, open_to))
    unary = [rpc for rpc in rpcs(spec) if not rpc.startswith("Watch")]
    for principal, (_, belongs) in CALLERS.items():
        if principal.startswith("group:"):
            metadata = (*bearer("service:gateway"), ("nanoclaw-group", principal.removeprefix("group:")))
        else:
            metadata = bearer(principal)
        for rpc in unary if principal == "operator:ana" else unary[:2]:
            code, error = await raw(server, metadata, rpc=rpc)
            refused = error is not None and error.reason == "NOT_PERMITTED"
            assert refused == (access not in belongs | {Access.ANYONE}), (principal, rpc, code)


async def test_a_method_that_the_table_forgets_stops_the_start(spec, credentials, home):
    """Adding an RPC to a proto without deciding who may call it is noticed at once."""
    forgetful = {rpc: access for rpc, access in spec.access.items() if rpc != "KillProduct" and rpc != "GetTask"}
    forgetful_spec = ServiceSpec(spec.name, spec.add, spec.servicer, forgetful)
    assert unlisted(forgetful_spec) == ["GetTask"]
    server = Server(listen=[f"unix:{home}/run/x.sock"], services=[forgetful_spec], credentials=credentials)
    with pytest.raises(NanoclawError) as caught:
        await server.start()
    assert caught.value.reason == "UNLISTED_RPC"
    assert "GetTask" in caught.value.message
    assert not (home / "run/x.sock").exists()


async def test_a_method_that_only_the_table_knows_stops_the_start(spec, credentials, home):
    """A misspelt entry would leave its RPC closed, and nobody would know why."""
    strange = ServiceSpec(spec.name, spec.add, spec.servicer, {**spec.access, "GetTusk": frozenset({Access.ADMIN})})
    with pytest.raises(NanoclawError, match="GetTusk"):
        await Server(listen=[f"unix:{home}/run/x.sock"], services=[strange], credentials=credentials).start()


def test_the_helpers_enumerate_every_rpc_of_the_proto(spec):
    """What service tests rely on to show that nothing is forgotten."""
    methods = pb.DESCRIPTOR.services_by_name["GovernanceService"].methods_by_name
    assert rpcs(spec) == sorted(methods)
    assert unlisted(spec) == []
    assert len(permitted(spec)) == len(methods) * len(Access)
    assert ("CreateTask", Access.MAIN, True) in permitted(spec)
    assert ("CreateTask", Access.GROUP, False) in permitted(spec)


async def test_an_rpc_open_to_nobody_is_refused_to_admins(serve, raw, bearer, spec):
    """An empty set closes a method."""
    closed = ServiceSpec(spec.name, spec.add, spec.servicer, {**spec.access, "GetTask": frozenset()})
    code, error = await raw(await serve(closed), bearer("operator:founder"))
    assert (code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED")


@pytest.mark.parametrize(
    ("service", "rpc"),
    [("nanoclaw.governance.v1.GovernanceService", "NoSuch"), ("no.such.Service", "GetTask"), ("", "")],
)
async def test_an_unknown_method_is_refused_and_audited(serve, raw, bearer, spec, log_lines, service, rpc):
    """Even what does not exist asks for a credential first, and leaves a line."""
    server = await serve(spec)
    code, _ = await raw(server, (), service=service, rpc=rpc)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    code, error = await raw(server, bearer("operator:founder"), service=service, rpc=rpc)
    assert (code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_RPC")
    reasons = [line.get("reason") for line in log_lines() if line["event"] == "rpc"]
    assert reasons == ["NO_CREDENTIAL", "UNKNOWN_RPC"]
