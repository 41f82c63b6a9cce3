"""Calls for a task: what governance says of it is asked, fresh, and decides."""

from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw_broker.governance import GovernanceTasks
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import Server

L1, L2 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2


async def test_a_call_for_a_task_under_way_passes(broker: Any, governance: Any) -> None:
    """Assigned to the caller, in DOING: its product, scope and id are in the ledger."""
    governance.put("t1", product_id="atlas")
    await broker.grant("count", L2, product_id="atlas")
    answer = await broker.call("count", "add", task_id="t1")
    assert answer.code == "OK"
    record = await broker.record(answer.call_id)
    assert (record.task_id, record.product_id, record.scope) == ("t1", "atlas", "PRODUCT")


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (None, "TASK_NOT_FOUND"),
        ({"state": gov.TASK_STATE_REVIEW}, "TASK_STATE"),
        ({"assigned_group": "sales"}, "TASK_NOT_YOURS"),
        ({"product_id": "atlas"}, "PRODUCT_SCOPE"),
        ({"attempts": [gov.BoundAttempt(group="developer", attempt_id="nc-2", fence=2)]}, "STALE_ATTEMPT"),
    ],
)
async def test_a_call_for_a_task_that_does_not_allow_it_is_denied(
    broker: Any, governance: Any, counter: Any, task: dict[str, Any] | None, code: str
) -> None:
    """Unknown, not under way, somebody else's, of a product without a grant, by a fenced attempt."""
    if task is not None:
        governance.put("t1", **task)
    await broker.grant("count", L2)
    assert (await broker.call("count", "add", task_id="t1", attempt="nc-1")).code == code
    assert counter.effects == 0


async def test_a_required_gate_must_be_approved_now(broker: Any, governance: Any, counter: Any) -> None:
    """A grant with requires_task_gate: a task with a live approval of that gate, asked for each time."""
    governance.put("t1")
    await broker.grant("count", L2, requires_task_gate="Security")
    assert (await broker.call("count", "add")).code == "TASK_REQUIRED"
    assert (await broker.call("count", "add", task_id="t1")).code == "GATE_NOT_APPROVED"
    governance.live["t1"] = [gov.GATE_PRODUCT]
    assert (await broker.call("count", "add", task_id="t1")).code == "GATE_NOT_APPROVED"
    governance.live["t1"] = [gov.GATE_PRODUCT, gov.GATE_SECURITY]
    assert (await broker.call("count", "add", task_id="t1")).code == "OK"
    governance.live["t1"] = []
    assert (await broker.call("count", "add", task_id="t1")).code == "GATE_NOT_APPROVED"
    assert counter.effects == 1


async def test_the_task_is_read_anew_for_each_call(broker: Any, governance: Any) -> None:
    """What was true for the last call does not count for the next."""
    governance.put("t1")
    await broker.grant("count", L2)
    assert (await broker.call("count", "add", task_id="t1")).code == "OK"
    governance.put("t1", state=gov.TASK_STATE_DONE)
    assert (await broker.call("count", "add", task_id="t1")).code == "TASK_STATE"


async def test_without_governance_nothing_is_allowed_or_recorded(
    broker: Any, governance: Any, governance_server: Server, counter: Any
) -> None:
    """Fail closed: UNAVAILABLE, so that the same request may pass later. What needs no task goes on."""
    governance.put("t1")
    await broker.grant("count", L2)
    done = await broker.call("count", "add", task_id="t1", request_id="done")
    await governance_server.stop()
    with pytest.raises(NanoclawError) as raised:
        await broker.call("count", "add", task_id="t1", request_id="later", timeout=8)
    assert (raised.value.kind, raised.value.reason) == (Kind.UNAVAILABLE, "GOVERNANCE_UNAVAILABLE")
    assert (await broker.call("count", "look")).code == "OK"
    again = await broker.call("count", "add", task_id="t1", request_id="done")
    assert (again.call_id, again.replayed) == (done.call_id, True)
    assert (await broker.call("nope", "x", task_id="t1")).code == "UNKNOWN_PROVIDER"
    assert counter.add.effects == ["x"]
    await governance_server.start()
    assert (await broker.call("count", "add", task_id="t1", request_id="later")).code == "OK"


async def test_a_grant_that_ends_while_the_task_is_read_does_not_count(
    broker: Any, governance: Any, counter: Any
) -> None:
    """The grant is read in the transaction that claims, after the task."""
    governance.put("t1")
    await broker.grant("count", L2)
    governance.on_get = broker.revoke
    answer = await broker.call("count", "add", task_id="t1")
    assert (answer.code, counter.effects) == ("NO_CAPABILITY", 0)


async def test_a_stale_reading_is_not_claimed_on(
    home: Any, governance: Any, governance_server: Server, dial: Any
) -> None:
    """A task read more than a second before the claim is read again."""
    governance.put("t1", attempts=[gov.BoundAttempt(group="developer", attempt_id="nc-1", fence=1)])
    now = 100.0
    tasks = GovernanceTasks(dial(f"unix:{home}/run/governance.sock", "service:broker"), lambda: now)
    reading = await tasks.read("t1", "developer", approvals=True)
    assert reading.fresh(101.0)
    assert not reading.fresh(101.1)
    assert (reading.task.bound_attempt, reading.task.live_gates) == ("nc-1", frozenset())


async def test_task_and_approvals_are_of_the_same_version(broker: Any, governance: Any) -> None:
    """A task that moved between the two answers is read again."""
    governance.put("t1")
    governance.live["t1"] = [gov.GATE_SECURITY]
    governance.behind = 1
    await broker.grant("count", L2, requires_task_gate="Security")
    assert (await broker.call("count", "add", task_id="t1")).code == "OK"
    assert len(governance.asked) == 3  # before the grant was chosen, with the approvals, and again
