"""Calls as the gateway passes them on: refused with a reason and a way out, executed once, answered again."""

import asyncio
import json
from typing import Any

import pytest
from google.protobuf import json_format

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.providers import ActionFailed, Result
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import on_behalf

L1, L2 = pb.ACCESS_LEVEL_L1, pb.ACCESS_LEVEL_L2
EXECUTED, DENIED = pb.CALL_STATUS_EXECUTED, pb.CALL_STATUS_DENIED
FAILED, TIMEOUT = pb.CALL_STATUS_FAILED, pb.CALL_STATUS_TIMEOUT


async def test_a_granted_call_is_executed_and_recorded(broker: Any, counter: Any) -> None:
    """Granted, decided, claimed, sent, executed, settled, answered."""
    await broker.grant("count", L2)
    answer = await broker.call("count", "add", {"text": "hello"}, request_id="mine", attempt="nc-1")
    assert (answer.status, answer.code, json.loads(answer.data_json)) == (EXECUTED, "OK", {"did": "hello"})
    assert counter.add.effects == ["hello"]
    record = await broker.record(answer.call_id)
    assert (record.state, record.code, record.group, record.attempt_id) == (
        pb.CALL_STATE_EXECUTED, "OK", "developer", "nc-1",
    )  # fmt: skip
    assert (record.request_id, record.params_summary, record.result_summary) == (
        "mine", "add of 5 characters", "did it 1",
    )  # fmt: skip
    assert len(record.params_hmac) == 64
    assert record.trace_id


async def test_the_smallest_grant_of_a_denial_is_one_that_passes(broker: Any, counter: Any) -> None:
    """Without a grant: denied, with the grant as data; made exactly so, the call passes, and another one does not."""
    denied = await broker.call("count", "add")
    assert (denied.status, denied.code, denied.facts["check"]) == (DENIED, "NO_CAPABILITY", "9 capability")
    assert "grant developer count L2, actions add" in denied.next_steps[0]
    request = json_format.ParseDict(json.loads(denied.facts["grant"]), pb.GrantRequest(request_id="as-told"))
    await broker.founder.Grant(request)
    assert (await broker.call("count", "add")).status == EXECUTED
    assert (await broker.call("count", "drop")).code == "ACTION_NOT_ALLOWED"
    assert counter.effects == 1


async def test_the_same_request_gets_the_same_answer_and_happens_once(broker: Any, counter: Any) -> None:
    """A request_id seen before: the recorded answer; with another body it is refused, and that is counted."""
    await broker.grant("count", L2)
    first = await broker.call("count", "add", {"text": "a"}, request_id="same")
    again = await broker.call("count", "add", {"text": "a"}, request_id="same")
    assert again.replayed
    again.replayed = False
    assert again == first
    for other in ({"params": {"text": "b"}}, {"params": {"text": "a"}, "idempotency_key": "k"}):
        reused = await broker.call("count", "add", other["params"], request_id="same", **_key(other))
        assert (reused.status, reused.code, reused.call_id) == (DENIED, "REQUEST_ID_REUSED", "")
    assert counter.effects == 1


def _key(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name == "idempotency_key"}


async def test_a_denial_is_recorded_and_answered_again(broker: Any) -> None:
    """A refusal with a row of its own keeps its request_id; the way out names a new one, and that one passes."""
    denied = await broker.call("count", "look", request_id="early")
    await broker.grant("count", L1)
    again = await broker.call("count", "look", request_id="early")
    assert (again.code, again.replayed, again.call_id) == ("NO_CAPABILITY", True, denied.call_id)
    assert denied.next_steps[-1] == "then send it again under a new request_id"
    assert (await broker.call("count", "look", request_id="later")).status == EXECUTED


async def test_request_ids_belong_to_a_group(broker: Any, counter: Any) -> None:
    """Another group's request under the same id is its own."""
    await broker.grant("count", L2)
    await broker.grant("count", L2, group="sales")
    one = await broker.call("count", "add", request_id="same")
    two = await broker.call("count", "add", request_id="same", group="sales")
    assert one.call_id != two.call_id
    assert counter.effects == 2


async def test_an_idempotency_key_stands_for_one_effect(broker: Any, counter: Any) -> None:
    """The same key and parameters: the recorded answer. Others: refused. A refusal does not use the key up."""
    await broker.grant("count", L2, denied_actions=["drop"])
    assert (await broker.call("count", "drop", idempotency_key="k")).code == "ACTION_DENIED"
    first = await broker.call("count", "add", {"text": "a"}, idempotency_key="k")
    again = await broker.call("count", "add", {"text": "a"}, idempotency_key="k")
    assert (again.call_id, again.replayed, again.data_json) == (first.call_id, True, first.data_json)
    other = await broker.call("count", "add", {"text": "b"}, idempotency_key="k")
    assert (other.status, other.code) == (DENIED, "IDEMPOTENCY_KEY_REUSED")
    assert counter.effects == 1


async def test_a_request_asked_again_while_under_way_waits_for_the_one_answer(broker: Any, counter: Any) -> None:
    """Both get the answer of the one execution."""
    await broker.grant("count", L2)
    counter.add.gate = asyncio.Event()
    first = asyncio.create_task(broker.call("count", "add", request_id="same"))
    await counter.add.entered.wait()
    second = asyncio.create_task(broker.call("count", "add", request_id="same"))
    keyed = asyncio.create_task(broker.call("count", "look", request_id="other"))
    assert (await keyed).code == "OK"  # by now the second has been decided
    counter.add.gate.set()
    one, two = await first, await second
    assert (one.replayed, two.replayed, one.call_id) == (False, True, two.call_id)
    assert counter.add.effects == ["x"]


async def test_a_caller_that_goes_away_does_not_stop_the_call(broker: Any, counter: Any) -> None:
    """The execution goes on and settles; the answer is there when the agent asks again."""
    await broker.grant("count", L2)
    counter.add.gate = asyncio.Event()
    calling = asyncio.create_task(broker.call("count", "add", request_id="left"))
    await counter.add.entered.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    counter.add.gate.set()
    again = await broker.call("count", "add", request_id="left")
    assert (again.status, again.replayed) == (EXECUTED, True)
    assert counter.effects == 1


async def test_a_caller_that_gives_up_early_finds_the_answer_later(broker: Any, counter: Any) -> None:
    """A deadline shorter than the action's ends the asking, not the call."""
    await broker.grant("count", L2)
    counter.add.gate = asyncio.Event()
    with pytest.raises(NanoclawError) as raised:
        await broker.call("count", "add", request_id="slow", timeout=0.3)
    assert raised.value.kind is Kind.DEADLINE
    counter.add.gate.set()
    assert (await broker.call("count", "add", request_id="slow")).status == EXECUTED


async def test_what_the_other_side_refuses_is_failed(broker: Any, counter: Any) -> None:
    """A parsed no: FAILED with its code, facts and next steps."""
    await broker.grant("count", L2)

    def refuse(_: Any) -> Result:
        raise ActionFailed("NO_SUCH_REPO", "there is no such repository", next_steps=("look it up",), repo="r")

    counter.add.then = refuse
    answer = await broker.call("count", "add")
    assert (answer.status, answer.code, answer.facts["repo"]) == (FAILED, "NO_SUCH_REPO", "r")
    assert (await broker.record(answer.call_id)).state == pb.CALL_STATE_FAILED


@pytest.mark.parametrize(
    ("action", "status", "code", "state"),
    [
        ("look", FAILED, "PROVIDER_ERROR", pb.CALL_STATE_FAILED),
        ("compute", FAILED, "PROVIDER_ERROR", pb.CALL_STATE_FAILED),
        ("add", TIMEOUT, "EFFECT_UNKNOWN", pb.CALL_STATE_UNKNOWN),
    ],
)
async def test_an_action_that_breaks_off_may_have_happened_if_it_changes_anything(
    broker: Any, counter: Any, capfd: Any, action: str, status: int, code: str, state: int
) -> None:
    """No parsed reply: a mutating call is UNKNOWN and never repeated. The error's text goes nowhere."""
    await broker.grant("count", L2)

    def break_off(_: Any) -> Result:
        raise RuntimeError("connection to db://user:hunter22@host reset")

    getattr(counter, action).then = break_off
    answer = await broker.call("count", action, idempotency_key="k")
    assert (answer.status, answer.code) == (status, code)
    assert (await broker.record(answer.call_id)).state == state
    again = await broker.call("count", action, idempotency_key="k")
    assert (again.code, again.replayed) == (code, True)
    assert len(getattr(counter, action).effects) == 1
    shown = capfd.readouterr()
    assert "hunter22" not in str(answer) + shown.out + shown.err
    assert "RuntimeError" in shown.out + shown.err


@pytest.mark.parametrize(("action", "code"), [("look", "NO_REPLY"), ("compute", "NO_REPLY"), ("add", "EFFECT_UNKNOWN")])
async def test_an_action_that_takes_too_long_times_out(start: Any, counter: Any, action: str, code: str) -> None:
    """Reads and pure actions: TIMEOUT. Mutating ones: nobody knows."""
    getattr(counter, action).timeout_seconds = 0.05
    getattr(counter, action).gate = asyncio.Event()
    async with start() as broker:
        await broker.grant("count", L2)
        answer = await broker.call("count", action)
        assert (answer.status, answer.code) == (TIMEOUT, code)
        assert bool("not known" in answer.message) is (action == "add")


@pytest.mark.parametrize(
    ("data", "code"),
    [("y" * 60_000, "ANSWER_TOO_LARGE"), (float("nan"), "ANSWER_NOT_JSON"), ({1, 2}, "ANSWER_NOT_JSON")],
)
async def test_an_answer_that_cannot_be_passed_on(broker: Any, counter: Any, data: Any, code: str) -> None:
    """Fails a call that changed nothing; of one that did, the effect is told and the answer left out."""
    await broker.grant("count", L2)
    counter.look.then = counter.add.then = lambda _: Result(data)
    looked = await broker.call("count", "look")
    assert (looked.status, looked.code) == (FAILED, code)
    added = await broker.call("count", "add")
    assert (added.status, added.code, added.data_json, added.facts["left_out"]) == (EXECUTED, "OK", "", code)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": ""}, "request_id"),
        ({"request_id": "a b"}, "request_id"),
        ({"provider": ""}, "provider"),
        ({"provider": "../x"}, "provider"),
        ({"action": ".hidden"}, "action"),
        ({"task_id": "a/b"}, "task_id"),
        ({"idempotency_key": "k" * 201}, "idempotency_key"),
        ({"params_json": "["}, "params_json"),
        ({"params_json": "[]"}, "params_json"),
        ({"params_json": '{"a":1,"a":2}'}, "params_json"),
        ({"params_json": '{"a":"\\ud800"}'}, "params_json"),
        ({"params_json": '{"a":1e999}'}, "params_json"),
        ({"params_json": "[" * 100_000}, "params_json"),
    ],
)
async def test_a_malformed_request_is_an_error_and_leaves_nothing(
    broker: Any, fields: dict[str, str], field: str
) -> None:
    """Check 1: the form is wrong, so there is nothing that could be recorded."""
    request = {"request_id": "r", "provider": "count", "action": "look"} | fields
    with pytest.raises(NanoclawError) as raised:
        await broker.gateway.Call(pb.CallRequest(**request), metadata=on_behalf("developer"))
    assert (raised.value.reason, raised.value.violations[0].field) == ("INVALID_FIELD", field)
    assert not (await broker.founder.ListCalls(pb.ListCallsRequest())).calls


async def test_parameters_that_do_not_fit_are_refused_without_being_shown(broker: Any, counter: Any) -> None:
    """Check 15: the schema's complaints come back, the values sent do not."""
    await broker.grant("count", L2)
    answer = await broker.call("count", "add", {"text": ["planted-value"], "extra": "planted-value"})
    assert (answer.status, answer.code) == (DENIED, "INVALID_PARAMS")
    assert "text: " in answer.message
    assert "extra: " in answer.message
    assert "planted-value" not in str(answer)
    assert counter.effects == 0


async def test_unknown_names_are_denied_with_those_there_are(broker: Any) -> None:
    """Checks 6 and 7 fail closed."""
    provider = await broker.call("nope", "x")
    assert (provider.code, provider.facts["passable"]) == ("UNKNOWN_PROVIDER", "false")
    assert "json" in provider.next_steps[0]
    action = await broker.call("count", "fly")
    assert action.code == "UNKNOWN_ACTION"
    assert "add, compute, drop, launch, look, send" in action.next_steps[0]


async def test_a_provider_without_its_secret_is_denied(broker: Any) -> None:
    """Check 8 names the secret, not its value."""
    await broker.grant("locked", L1)
    answer = await broker.call("locked", "look")
    assert (answer.code, answer.facts["missing"]) == ("SECRETS_MISSING", "locked_token")


async def test_what_can_not_be_repeated_needs_a_grant_a_task_and_votes(broker: Any, counter: Any) -> None:
    """A denial of an L3 call says all of that at once, and that an admin must make the grant."""
    await broker.grant("count", L2)
    answer = await broker.call("count", "launch")
    assert (answer.code, answer.facts["passable"]) == ("LEVEL_TOO_LOW", "true")
    assert answer.next_steps[0].startswith("ask an admin for: grant developer count L3, actions")
    assert answer.next_steps[1:3] == [
        "name a task of yours that is under way",
        "have two principals approve the call once it is asked for, an operator among them",
    ]
    assert counter.effects == 0


@pytest.mark.parametrize(
    ("attestation", "code"),
    [
        (pb.Attestation(signature=pb.Attestation.SIGNATURE_MISSING), "SIGNATURE_MISSING"),
        (pb.Attestation(signature=pb.Attestation.SIGNATURE_WRONG), "SIGNATURE_WRONG"),
        (pb.Attestation(), "SIGNATURE_MISSING"),
        (None, "SIGNATURE_MISSING"),
    ],
)
async def test_an_unsigned_file_is_refused(broker: Any, counter: Any, attestation: Any, code: str) -> None:
    """Check 2: what the gateway does not vouch for counts as unsigned; refusals are counted, not listed."""
    await broker.grant("count", L2)
    for _ in range(3):
        assert (await broker.call("count", "add", attestation=attestation)).code == code
    assert counter.effects == 0
    assert not (await broker.founder.ListCalls(pb.ListCallsRequest())).calls


@pytest.mark.parametrize(
    "changes",
    [
        {"group": "sales"},
        {"params": {"text": "b"}},
        {"action": "look"},
    ],
)
async def test_explain_says_what_call_would(broker: Any, counter: Any, changes: dict[str, Any]) -> None:
    """The same verdict as Call, with the check that decides, and nothing written."""
    await broker.grant("count", L1)
    asked = {"group": "developer", "action": "add", "params": {"text": "a"}} | changes
    explained = await broker.founder.ExplainCall(
        pb.ExplainCallRequest(
            provider="count", action=asked["action"], params_json=json.dumps(asked["params"]), group=asked["group"]
        )
    )
    assert not (await broker.founder.ListCalls(pb.ListCallsRequest())).calls
    answer = await broker.call("count", asked["action"], asked["params"], group=asked["group"])
    assert explained.allowed is (answer.status == EXECUTED)
    assert explained.code == answer.code
    if not explained.allowed:
        assert f"{explained.check_number} {explained.check}" == answer.facts["check"]
        assert explained.facts["grant"] == answer.facts["grant"]
        assert list(explained.next_steps) == list(answer.next_steps[:-1])
    assert explained.level_required == (L1 if asked["action"] == "look" else L2)
