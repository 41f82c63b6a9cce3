"""The service as its clients see it: over a socket, with credentials, each RPC."""

import asyncio
import json
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import Access
from nanoclaw_rpc.testing import permitted, rpcs, unlisted

DOING, REVIEW, READY = pb.TASK_STATE_DOING, pb.TASK_STATE_REVIEW, pb.TASK_STATE_READY

WHO = {
    Access.ADMIN: "operator:founder",
    Access.APPROVER: "operator:ana",
    Access.VIEWER: "operator:vic",
    Access.MAIN: "group:main",
    Access.GROUP: "group:developer",
    Access.GOVERNANCE: "service:governance",
    Access.BROKER: "service:broker",
    Access.DISPATCHER: "service:dispatcher",
    Access.GATEWAY: "service:gateway",
    Access.OPS: "service:ops",
}
OWNERS = {Access.ADMIN, Access.MAIN}
WORKERS = OWNERS | {Access.GROUP}
SERVICES = {Access.GOVERNANCE, Access.BROKER, Access.DISPATCHER, Access.GATEWAY, Access.OPS}
READERS = OWNERS | SERVICES | {Access.APPROVER, Access.VIEWER}
MAY_CALL = {
    "CreateProduct": OWNERS,
    "UpdateProduct": OWNERS,
    "GetProduct": READERS,
    "ListProducts": READERS,
    "CreateTask": OWNERS,
    "GetTask": READERS | {Access.GROUP},
    "ListTasks": READERS | {Access.GROUP},
    "UpdateTask": OWNERS,
    "AssignTask": OWNERS,
    "TransitionTask": WORKERS | {Access.APPROVER, Access.DISPATCHER},
    "ExplainTransition": READERS | {Access.GROUP},
    "ApproveGate": WORKERS | {Access.APPROVER},
    "ListApprovals": READERS | {Access.GROUP},
    "AddEvidence": WORKERS,
    "SetChecklist": WORKERS,
    "OverrideTask": OWNERS,
    "GetContextPack": READERS | {Access.GROUP},
    "BindAttempt": {Access.DISPATCHER},
    "ListActivities": READERS | {Access.GROUP},
    "WatchTasks": READERS,
    "VerifyLog": READERS,
    "GetPolicy": set(WHO),
    "GetStatus": READERS,
}


async def make(service, state: str = "INBOX", **fields: Any) -> pb.Task:
    """A task in that state, by the usual way."""
    admin = service.as_("operator:second")
    fields = {"title": "Fix login", "task_type": "BUG", "assigned_group": "developer"} | fields
    task = (await admin("CreateTask", **fields)).task
    steps = {
        "TRIAGED": admin,
        "READY": admin,
        "DOING": service.as_("service:dispatcher"),
        "REVIEW": service.as_(f"group:{task.assigned_group}"),
        "APPROVAL": service.as_("service:dispatcher"),
    }
    for to, client in steps.items():
        if task.state == pb.TaskState.Value(f"TASK_STATE_{state}"):
            break
        task = (await client("TransitionTask", task_id=task.id, to_state=to, reason="because")).task
    return task


async def refusal(call: Any) -> NanoclawError:
    """The error that the call ends with."""
    with pytest.raises(NanoclawError) as caught:
        await call
    return caught.value


def test_the_table_of_this_test_knows_every_rpc() -> None:
    """Whoever adds an RPC says here, too, who may call it."""
    methods = pb.DESCRIPTOR.services_by_name["GovernanceService"].methods
    assert {method.name for method in methods} == set(MAY_CALL)


async def test_every_rpc_is_listed_and_open_to_whom_the_design_says(service) -> None:
    """The access table, enumerated against a second writing of it: every RPC, every class of callers."""
    assert unlisted(service.spec) == []
    assert set(rpcs(service.spec)) == set(MAY_CALL)
    for rpc, access, may in permitted(service.spec):
        if access in (Access.ANYONE, Access.SERVICE):
            continue
        members = {access} | ({Access.GROUP} if access is Access.MAIN else set())
        really = may or bool(service.spec.access[rpc] & {Access.ANYONE})
        really = really or (access in SERVICES and Access.SERVICE in service.spec.access[rpc])
        really = really or bool(members & service.spec.access[rpc])
        assert really == (access in MAY_CALL[rpc]), (rpc, access)


@pytest.mark.parametrize("rpc", sorted(MAY_CALL))
async def test_who_may_not_call_is_refused_over_the_wire(service, rpc: str) -> None:
    """With real credentials: those outside the table get NOT_PERMITTED, the others get past it."""
    for access, principal in WHO.items():
        client = service.as_(principal)
        call = client(rpc)
        try:
            if rpc == "WatchTasks":
                await asyncio.wait_for(call.read(), 5)
                call.cancel()
            else:
                await call
            outcome = "passed"
        except NanoclawError as error:
            outcome = f"{error.reason}: {error.message}"
        refused_at_the_door = outcome.endswith(f"{principal} may not call {rpc}")
        assert refused_at_the_door == (access not in MAY_CALL[rpc]), (principal, outcome)


async def test_nobody_gets_in_without_a_credential(service, dial) -> None:
    """Nor does a header make a group."""
    bare = governance_pb2_grpc.GovernanceServiceStub(dial(service.server, None))
    assert (await refusal(bare.GetPolicy(pb.GetPolicyRequest()))).kind is Kind.UNAUTHENTICATED
    posing = governance_pb2_grpc.GovernanceServiceStub(dial(service.server, "service:dispatcher"))
    error = await refusal(posing.GetPolicy(pb.GetPolicyRequest(), metadata=(("nanoclaw-group", "main"),)))
    assert error.reason == "FOREIGN_ATTESTATION"


async def test_a_task_travels_from_inbox_to_done(service) -> None:
    """Every edge of the main road, by those whose edge it is, and the answer tells everything."""
    task = await make(service, "APPROVAL", gate="SECURITY")
    assert task.approver_group == "security"
    assert list(task.executors) == ["group:developer"]
    security = service.as_("group:security")
    answer = await security("ApproveGate", task_id=task.id, gate="SECURITY", notes="read it")
    assert answer.changed
    assert (answer.approval.approved_by, answer.approval.task_version) == ("group:security", task.version)
    done = await security("TransitionTask", task_id=task.id, to_state="DONE", expected_version=task.version)
    assert done.changed
    assert done.task.state == pb.TASK_STATE_DONE
    assert (done.task.version, done.task.round, done.task.previous_state) == (7, 1, pb.TASK_STATE_APPROVAL)
    assert done.task.policy_version == "1.0.0"
    assert done.task.updated_at.ToNanoseconds() > done.task.created_at.ToNanoseconds() > 0


async def test_a_group_cannot_read_or_move_others_tasks(service) -> None:
    """To a group without a relation a task is not there, by whatever RPC it asks."""
    task = await make(service, "DOING", gate="SECURITY")
    stranger, security = service.as_("group:stranger"), service.as_("group:security")
    calls = {
        "GetTask": {},
        "TransitionTask": {"to_state": "BLOCKED", "reason": "x"},
        "ExplainTransition": {"to_state": "BLOCKED"},
        "ApproveGate": {"gate": "SECURITY"},
        "ListApprovals": {},
        "AddEvidence": {"link": "x"},
        "SetChecklist": {},
        "GetContextPack": {},
        "ListActivities": {},
    }
    for rpc, fields in calls.items():
        error = await refusal(stranger(rpc, task_id=task.id, **fields))
        assert (error.kind, error.reason) == (Kind.NOT_FOUND, "TASK_NOT_FOUND"), rpc
        unknown = await refusal(stranger(rpc, task_id="nowhere", **fields))
        assert unknown.reason == error.reason, "whether it exists does not show"
    assert (await service.as_("operator:founder")("GetTask", task_id=task.id)).task == task
    assert (await security("GetTask", task_id=task.id)).task == task
    for rpc in ("ListApprovals", "ListActivities"):
        assert (await refusal(stranger(rpc))).reason == "NOT_PERMITTED"


async def test_lists_show_what_the_caller_may_see(service) -> None:
    """The assigned group its own, the gate's approver what is at its gate, main and operators all."""
    mine = await make(service)
    at_gate = await make(service, gate="SECURITY", assigned_group="designer")
    other = await make(service, assigned_group="designer")

    async def ids(principal: str, **fields: Any) -> list[str]:
        return [task.id for task in (await service.as_(principal)("ListTasks", **fields)).tasks]

    assert await ids("group:developer") == [mine.id]
    assert await ids("group:security") == [at_gate.id]
    assert await ids("group:designer") == [at_gate.id, other.id]
    assert await ids("group:designer", gate="SECURITY") == [at_gate.id]
    for principal in ("group:main", "operator:vic", "service:dispatcher"):
        assert await ids(principal) == [mine.id, at_gate.id, other.id]


async def test_lists_page(service) -> None:
    """Pages follow one another by their tokens; a token of another list is refused."""
    for _ in range(5):
        await make(service)
    admin = service.as_("operator:founder")
    seen, token = [], ""
    while True:
        answer = await admin("ListTasks", page_size=2, page_token=token)
        seen += [task.id for task in answer.tasks]
        token = answer.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) == 5
    first = await admin("ListActivities", page_size=3)
    assert [row.cursor.seq for row in first.activities] == [1, 2, 3]
    second = await admin("ListActivities", page_size=3, page_token=first.next_page_token)
    assert [row.cursor.seq for row in second.activities] == [4, 5]
    for rpc in ("ListTasks", "ListActivities", "ListApprovals", "ListProducts"):
        for wrong in ("nonsense", first.next_page_token if rpc != "ListActivities" else "WyJ4Il0"):
            assert (await refusal(admin(rpc, page_token=wrong))).reason == "PAGE_TOKEN_INVALID"


async def test_the_same_request_id_gets_the_same_answer(service) -> None:
    """I11 for every mutation: repeated it answers the same and does nothing; with another body it is refused."""
    task = await make(service, "REVIEW", gate="SECURITY")
    admin, dispatcher = service.as_("operator:founder"), service.as_("service:dispatcher")
    product = await admin("CreateProduct", name="Shop")
    calls: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
        "CreateProduct": (admin, {"name": "Site"}, {"name": "Other"}),
        "UpdateProduct": (admin, {"product_id": product.product.id, "name": "Shops"}, {"name": "x"}),
        "CreateTask": (admin, {"title": "t", "task_type": "BUG"}, {"title": "u"}),
        "UpdateTask": (admin, {"task_id": task.id, "title": "new"}, {"title": "newer"}),
        "AssignTask": (admin, {"task_id": task.id, "assigned_group": "designer"}, {"assigned_group": "other"}),
        "AddEvidence": (admin, {"task_id": task.id, "link": "https://ci/1"}, {"link": "https://ci/2"}),
        "SetChecklist": (admin, {"task_id": task.id, "docs_updated": True}, {"docs_updated": False}),
        "ApproveGate": (admin, {"task_id": task.id, "gate": "SECURITY"}, {"notes": "x"}),
        "OverrideTask": (admin, {"task_id": task.id, "reason": "hurry"}, {"reason": "x"}),
        "TransitionTask": (admin, {"task_id": task.id, "to_state": "APPROVAL"}, {"to_state": "DOING"}),
        "BindAttempt": (
            dispatcher,
            {"task_id": task.id, "group": "developer", "attempt_id": "nc-1", "fence": 1},
            {"fence": 2},
        ),
    }
    mutations = {rpc for rpc in MAY_CALL if "request_id" in getattr(pb, f"{rpc}Request").DESCRIPTOR.fields_by_name}
    assert set(calls) == mutations
    for rpc, (client, fields, other) in calls.items():
        first = await client(rpc, request_id=f"once-{rpc}", **fields)
        rows = (await admin("GetStatus")).head.seq
        again = await client(rpc, request_id=f"once-{rpc}", **fields)
        assert again == first, rpc
        error = await refusal(client(rpc, request_id=f"once-{rpc}", **{**fields, **other}))
        assert error.reason == "REQUEST_ID_REUSED", rpc
        assert (await refusal(client(rpc, request_id="", **fields))).reason == "INVALID_FIELD"
        assert (await admin("GetStatus")).head.seq == rows, rpc


async def test_the_same_request_id_after_a_restart_gets_the_same_answer(open_service) -> None:
    """What was answered is on the disk."""
    service = await open_service()
    task = await make(service)
    client = service.as_("operator:founder")
    first = await client("TransitionTask", request_id="once", task_id=task.id, to_state="TRIAGED")
    await service.close()
    service = await open_service()
    client = service.as_("operator:founder")
    assert await client("TransitionTask", request_id="once", task_id=task.id, to_state="TRIAGED") == first


async def test_a_refusal_is_decided_again(service) -> None:
    """What was refused under a request_id may pass under it later."""
    task = await make(service)
    client = service.as_("operator:founder")
    assert (
        await refusal(client("TransitionTask", request_id="r", task_id=task.id, to_state="READY"))
    ).reason == "NO_SUCH_EDGE"
    await client("TransitionTask", task_id=task.id, to_state="TRIAGED")
    assert (await client("TransitionTask", request_id="r", task_id=task.id, to_state="READY")).changed


async def test_64_clients_race_on_one_version_and_one_wins_each_round(service) -> None:
    """The others are told the version that stands."""
    task = await make(service)
    clients = [service.as_("operator:founder") for _ in range(64)]
    way = ["TRIAGED", "READY", "BLOCKED", "TRIAGED", "READY", "BLOCKED"]
    for number, to in enumerate(way):
        outcomes = await asyncio.gather(
            *(
                client("TransitionTask", task_id=task.id, to_state=to, reason="race", expected_version=number + 1)
                for client in clients
            ),
            return_exceptions=True,
        )
        won = [outcome for outcome in outcomes if isinstance(outcome, pb.TransitionTaskResponse)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, NanoclawError)]
        assert (len(won), len(lost)) == (1, 63)
        assert won[0].changed
        assert {(error.kind, error.reason, error.facts["actual"]) for error in lost} == {
            (Kind.CONFLICT, "STALE_VERSION", str(number + 2))
        }
    assert (await clients[0]("GetTask", task_id=task.id)).task.version == 7


async def test_a_refusal_carries_every_violation_and_the_next_step(open_service) -> None:
    """On the wire as inside."""
    service = await open_service(strict=True)
    task = await make(service, "READY")
    error = await refusal(service.as_("service:dispatcher")("TransitionTask", task_id=task.id, to_state="DOING"))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "MISSING_DOD_CHECKLIST")
    assert [violation.code for violation in error.violations] == ["MISSING_DOD_CHECKLIST", "EVIDENCE_REQUIRED_NOT_SET"]
    assert error.next_step


async def test_unknown_enum_numbers_are_refused(service) -> None:
    """A newer client's values are not guessed at."""
    task = await make(service)
    client = service.as_("operator:founder")
    for rpc, fields in {
        "TransitionTask": {"task_id": task.id, "to_state": 99},
        "CreateTask": {"title": "t", "task_type": 99},
        "UpdateTask": {"task_id": task.id, "priority": 99},
        "ApproveGate": {"task_id": task.id, "gate": 0},
        "ListTasks": {"states": [0]},
        "UpdateProduct": {"product_id": "x", "status": 9},
    }.items():
        assert (await refusal(client(rpc, **fields))).reason == "INVALID_FIELD", rpc
    assert (await refusal(client("TransitionTask", task_id=task.id))).reason == "INVALID_FIELD"


async def test_explain_says_what_transition_would(service) -> None:
    """All violations, the steps, who may; for somebody else where an admin asks."""
    task = await make(service, "REVIEW", gate="SECURITY")
    admin = service.as_("operator:founder")
    found = await admin("ExplainTransition", task_id=task.id, to_state="APPROVAL")
    assert found.allowed
    assert found.would_change
    found = await admin("ExplainTransition", task_id=task.id, to_state="DONE", as_principal="group:developer")
    assert [violation.code for violation in found.violations] == ["NO_SUCH_EDGE"]
    assert list(found.next_steps) == ["go by REVIEW → APPROVAL → DONE: move it to TASK_STATE_APPROVAL next"]
    await admin("TransitionTask", task_id=task.id, to_state="APPROVAL")
    found = await admin("ExplainTransition", task_id=task.id, to_state="DONE", as_principal="group:developer")
    assert not found.allowed
    assert [violation.code for violation in found.violations] == [
        "NOT_PERMITTED",
        "GATE_NOT_APPROVED",
    ]
    assert list(found.permitted_principals) == ["group:main", "group:security", "operator:*"]
    error = await refusal(
        service.as_("group:developer")("ExplainTransition", task_id=task.id, to_state="DONE", as_principal="group:main")
    )
    assert error.reason == "NOT_PERMITTED"


async def test_a_context_pack_holds_what_a_reviewer_needs(service, broker) -> None:
    """Product, task, summary, evidence, the last 15 activities oldest first, approvals, external calls."""
    admin = service.as_("operator:founder")
    await admin("CreateProduct", name="Shop")
    task = await make(service, "DOING", gate="SECURITY", product="Shop")
    developer = service.as_("group:developer")
    for number in range(12):
        await developer("AddEvidence", task_id=task.id, link=f"https://ci/{number}")
    await developer("TransitionTask", task_id=task.id, to_state="REVIEW", review_summary="all green")
    await service.as_("group:security")("ApproveGate", task_id=task.id, gate="SECURITY")
    broker.calls.append(broker_pb2.CallRecord(call_id="c1", task_id=task.id))
    pack = await service.as_("group:security")("GetContextPack", task_id=task.id)
    assert pack.product.name == "Shop"
    assert pack.task.id == task.id
    assert pack.execution_summary == "all green"
    assert [evidence.link for evidence in pack.evidence] == [f"https://ci/{number}" for number in range(12)]
    assert len(pack.activities) == 15
    assert [row.cursor.seq for row in pack.activities] == sorted(row.cursor.seq for row in pack.activities)
    assert pack.activities[-1].action == "approve"
    assert [approval.approved_by for approval in pack.approvals] == ["group:security"]
    assert [call.call_id for call in pack.external_calls] == ["c1"]
    assert pack.external_calls_unavailable == ""
    assert (broker.asked[0].task_id, broker.asked[0].page_size) == (task.id, 50)


async def test_a_context_pack_says_when_the_broker_is_away(service) -> None:
    """The rest of it is there, soon."""
    task = await make(service)
    async with asyncio.timeout(5):
        pack = await service.as_("operator:founder")("GetContextPack", task_id=task.id)
    assert pack.task.id == task.id
    assert not pack.external_calls
    assert pack.external_calls_unavailable.startswith("the broker did not answer")


async def test_approvals_are_listed_with_the_tasks_version(service) -> None:
    """What is live, and against which version of the task it was read."""
    task = await make(service, "REVIEW", gate="SECURITY")
    security, admin = service.as_("group:security"), service.as_("operator:founder")
    await security("ApproveGate", task_id=task.id, gate="SECURITY")
    answer = await admin("ListApprovals", task_id=task.id, live_only=True)
    assert [approval.approved_by for approval in answer.approvals] == ["group:security"]
    assert answer.task_version == task.version
    await security("TransitionTask", task_id=task.id, to_state="DOING", reason="again")
    assert not (await admin("ListApprovals", task_id=task.id, live_only=True)).approvals
    (voided,) = (await admin("ListApprovals", task_id=task.id)).approvals
    assert voided.void_reason == "the task entered DOING"
    assert voided.HasField("voided_at")
    assert len((await admin("ListApprovals")).approvals) == 1
    assert not (await admin("ListApprovals", live_only=True)).approvals


async def test_a_claim_binds_its_attempt_in_the_same_unit(service) -> None:
    """One answer, two facts; where either is refused neither happens."""
    task = await make(service, "READY")
    dispatcher, admin = service.as_("service:dispatcher"), service.as_("operator:founder")
    bind = pb.AttemptBinding(group="developer", attempt_id="nc-1", fence=4)
    move = {"task_id": task.id, "to_state": "DOING", "expected_version": task.version}
    stale = await refusal(dispatcher("TransitionTask", **move | {"expected_version": 99}, bind=bind))
    assert stale.reason == "STALE_VERSION"
    nameless = pb.AttemptBinding(group="developer", attempt_id="a/b", fence=4)
    assert (await refusal(dispatcher("TransitionTask", **move, bind=nameless))).reason == "INVALID_FIELD"
    assert (await admin("GetTask", task_id=task.id)).task == task
    claimed = (await dispatcher("TransitionTask", **move, bind=bind)).task
    assert [(bound.group, bound.attempt_id, bound.fence) for bound in claimed.attempts] == [("developer", "nc-1", 4)]
    facts = (await admin("ListActivities", task_id=task.id)).activities
    assert sorted(fact.action for fact in facts if fact.request_ref == facts[-1].request_ref) == [
        "bind_attempt",
        "transition",
    ]


async def test_nobody_but_the_dispatcher_binds_an_attempt_with_a_move(service) -> None:
    """An agent could else lift its own fence."""
    task = await make(service, "READY")
    bind = pb.AttemptBinding(group="developer", attempt_id="nc-1", fence=4)
    for who in ("operator:founder", "group:developer", "group:main"):
        move = service.as_(who)("TransitionTask", task_id=task.id, to_state="DOING", bind=bind)
        assert (await refusal(move)).reason == "NOT_PERMITTED"


async def test_a_task_tells_attempts_override_checklist_and_evidence(service) -> None:
    """What is stored as JSON comes out as messages."""
    task = await make(service, "DOING", gate="SECURITY", metadata_json='{"a":1}')
    admin = service.as_("operator:founder")
    assert not task.HasField("evidence_required")
    await service.as_("service:dispatcher")(
        "BindAttempt", task_id=task.id, group="developer", attempt_id="nc-1", fence=4
    )
    await admin("SetChecklist", task_id=task.id, checklist=[pb.ChecklistItem(text="tested", done=True)])
    await admin("SetChecklist", task_id=task.id, evidence_required=False, docs_updated=True)
    await admin("AddEvidence", task_id=task.id, link="https://ci/1", note="green")
    overridden = await admin("OverrideTask", task_id=task.id, reason="hurry", accepted_risk="a leak")
    task = (await admin("GetTask", task_id=task.id)).task
    assert [(item.text, item.done) for item in task.checklist] == [("tested", True)]
    assert task.HasField("evidence_required")
    assert (task.evidence_required, task.docs_updated) == (False, True)
    assert [(item.link, item.note, item.added_by) for item in task.evidence] == [
        ("https://ci/1", "green", "operator:founder")
    ]
    assert [(bound.group, bound.attempt_id, bound.fence) for bound in task.attempts] == [("developer", "nc-1", 4)]
    assert (task.override.by, task.override.follow_up_task_id) == ("operator:founder", overridden.follow_up.id)
    assert not task.override.HasField("review_deadline")
    assert json.loads(task.metadata_json) == {"a": 1}


async def test_policy_status_and_verification_are_served(open_service) -> None:
    """What holds, how things stand, and that the log is whole."""
    service = await open_service(strict=True)
    admin = service.as_("operator:founder")
    await make(service)
    policy = await admin("GetPolicy")
    assert (policy.policy_version, policy.strict, policy.trust_main, policy.max_rework_rounds) == (
        "1.0.0",
        True,
        False,
        3,
    )
    assert len(policy.edges) == 18
    assert len(policy.digest) == 64
    (to_done,) = [edge for edge in policy.edges if edge.to_state == pb.TASK_STATE_DONE]
    assert list(to_done.permitted) == ["admin", "approver", "gate_approver", "main"]
    assert "GATE_NOT_APPROVED" in to_done.requirements
    status = await admin("GetStatus")
    assert {count.state: count.count for count in status.counts} == {pb.TASK_STATE_INBOX: 1}
    report = await admin("VerifyLog")
    assert (report.ok, report.rows, report.head) == (True, 1, status.head)
    assert not report.HasField("first_broken")


async def test_products_are_served(service) -> None:
    """By id or by name; main may, but not kill."""
    main = service.as_("group:main")
    product = (await main("CreateProduct", name="Shop", risk=pb.RISK_HIGH)).product
    for wanted in (product.id, "Shop"):
        assert (await main("GetProduct", product_id=wanted)).product == product
    error = await refusal(main("UpdateProduct", product_id="Shop", status=pb.PRODUCT_STATUS_KILLED))
    assert (error.kind, error.reason) == (Kind.DENIED, "NOT_PERMITTED")
    answer = await main("UpdateProduct", product_id="Shop", status=pb.PRODUCT_STATUS_PAUSED, expected_version=1)
    assert (answer.changed, answer.product.version) == (True, 2)
    assert len((await main("ListProducts", status=pb.PRODUCT_STATUS_PAUSED)).products) == 1
    assert not (await main("ListProducts", status=pb.PRODUCT_STATUS_ACTIVE)).products
    for number in range(3):
        await main("CreateProduct", name=f"P{number}")
    first = await main("ListProducts", page_size=3)
    rest = await main("ListProducts", page_size=3, page_token=first.next_page_token)
    assert (len(first.products), len(rest.products), rest.next_page_token) == (3, 1, "")
