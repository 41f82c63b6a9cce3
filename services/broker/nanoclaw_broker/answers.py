"""What a caller is told of a call: CallResponses, made of decisions and of ends."""

import json
from dataclasses import dataclass
from typing import cast

from google.protobuf import json_format

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, Outcome
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.ledger import EFFECT_UNKNOWN, NEVER_SENT, NO_REPLY, Kind, State
from nanoclaw_broker.policy import COUNTED, Level
from nanoclaw_broker.providers import ActionFailed, Result
from nanoclaw_broker.remedy import remedy
from nanoclaw_broker.secrets import SCRUBBED, Secrets

MOST_BYTES = 50_000
"""Of what an action answered."""
_MOST_SUMMARY = 200
_MOST_TEXT = 2_000

_STATUS = {
    State.DENIED: pb.CALL_STATUS_DENIED,
    State.EXECUTED: pb.CALL_STATUS_EXECUTED,
    State.FAILED: pb.CALL_STATUS_FAILED,
    State.TIMEOUT: pb.CALL_STATUS_TIMEOUT,
    State.UNKNOWN: pb.CALL_STATUS_TIMEOUT,
}

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended, and what is said about it."""

    state: State
    response: pb.CallResponse

    @property
    def reason(self) -> str:
        """One line for the ledger: empty where it worked."""
        return "" if self.state is State.EXECUTED else self.response.message[:_MOST_SUMMARY]


def one_line(text: str) -> str:
    """A summary as the ledger takes it."""
    return " ".join(text.split())[:_MOST_SUMMARY]


def refusal(facts: Facts, decision: Decision, call_id: str = "", *, explaining: bool = False) -> pb.CallResponse:
    """The answer to a call that was denied: facts, and the smallest grant or narrowing that would pass."""
    mended = remedy(facts)
    steps = list(mended.steps)
    if mended.passable and not explaining and decision.code not in COUNTED:
        steps.append("then send it again under a new request_id")
    known = {**what_is_known(facts, decision), "passable": str(mended.passable).lower()}
    if mended.grant is not None:
        known["grant"] = grant_json(mended.grant)
    if mended.wait_until:
        known["retry_at"] = mended.wait_until
    return pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_DENIED,
        code=decision.code,
        message=decision.message[:_MOST_TEXT],
        facts=known,
        next_steps=steps,
    )


def what_is_known(facts: Facts, decision: Decision) -> dict[str, str]:
    """The facts of a decision, whichever way it went."""
    known = {"check": f"{decision.check.value} {decision.check.name.lower()}", "level_required": facts.level.name}
    if decision.capability is not None:
        known["level_held"] = decision.capability.level.name
        known["capability_id"] = decision.capability.id
    return known | dict(decision.facts)


def grant_json(grant: Capability) -> str:
    """A GrantRequest as JSON, to be sent with a request_id of one's own."""
    request = pb.GrantRequest(
        group=grant.group,
        provider=grant.provider,
        access_level=level_to_proto(grant.level),
        allowed_actions=grant.allowed,
        denied_actions=grant.denied,
        requires_task_gate=grant.requires_task_gate,
        product_id=grant.product_id,
    )
    members = json_format.MessageToDict(request, preserving_proto_field_name=True)
    return json.dumps(members, ensure_ascii=False, sort_keys=True)


def executed(call_id: str, kind: Kind, result: Result, notes: dict[str, str], secrets: Secrets) -> Ended:
    """It worked. What can't be passed on fails a call that changed nothing, and is left out of one that did."""
    try:
        text = _encode(secrets.scrub_value(result.data))
        text.encode()
    except (ValueError, TypeError, RecursionError):
        return _not_passed_on(call_id, kind, notes, "ANSWER_NOT_JSON", "the answer is not JSON")
    text = _scrub_json(text, secrets)
    if len(text) > MOST_BYTES or len(text.encode()) > MOST_BYTES:
        message = f"the answer is larger than {MOST_BYTES} bytes"
        return _not_passed_on(call_id, kind, notes, "ANSWER_TOO_LARGE", message)
    response = pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_EXECUTED,
        code="OK",
        data_json=text,
        summary=one_line(secrets.scrub(result.summary)),
        facts=notes,
    )
    return Ended(State.EXECUTED, response)


def _scrub_json(text: str, secrets: Secrets) -> str:
    """A secret may also be a number, or spread over several values: then nothing of the answer is passed on."""
    scrubbed = secrets.scrub(text)
    if scrubbed != text:
        try:
            json.loads(scrubbed)
        except ValueError:
            return _encode(SCRUBBED)
    return scrubbed


def _not_passed_on(call_id: str, kind: Kind, notes: dict[str, str], code: str, message: str) -> Ended:
    if kind is Kind.MUTATING:
        response = pb.CallResponse(
            call_id=call_id,
            status=pb.CALL_STATUS_EXECUTED,
            code="OK",
            message=f"it was done; {message}, so it is left out",
            facts={**notes, "left_out": code},
        )
        return Ended(State.EXECUTED, response)
    return failed(call_id, code, message, ("ask for less",), notes)


def failed(call_id: str, code: str, message: str, next_steps: tuple[str, ...], notes: dict[str, str]) -> Ended:
    """The other side said no, or nothing could be passed on."""
    response = pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_FAILED,
        code=code,
        message=message[:_MOST_TEXT],
        facts=notes,
        next_steps=next_steps,
    )
    return Ended(State.FAILED, response)


def refused_by_provider(call_id: str, error: ActionFailed, notes: dict[str, str], secrets: Secrets) -> Ended:
    """What the action made of the other side's no."""
    known = {secrets.scrub(name): secrets.scrub(value)[:_MOST_TEXT] for name, value in error.facts.items()}
    steps = tuple(secrets.scrub(step)[:_MOST_TEXT] for step in error.next_steps)
    return failed(call_id, error.code, secrets.scrub(error.message), steps, {**notes, **known})


def never_sent(call_id: str) -> Ended:
    """It was claimed, and the broker stopped before anything left."""
    message = "the broker stopped before it was sent; nothing has happened"
    step = "send it again under a new request_id; its idempotency_key is free"
    return failed(call_id, NEVER_SENT, message, (step,), {})


def without_reply(call_id: str, state: State, why: str, notes: dict[str, str]) -> Ended:
    """It was sent, and no reply could be read: TIMEOUT for what changes nothing, else UNKNOWN."""
    unknown = state is State.UNKNOWN
    message = f"{why}; whether it happened is not known" if unknown else f"{why}; nothing was changed"
    step = (
        "do not repeat it: look at the other side, or ask an operator to settle it"
        if unknown
        else "send it again under a new request_id, and a new idempotency_key if it had one"
    )
    response = pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_TIMEOUT,
        code=EFFECT_UNKNOWN if unknown else NO_REPLY,
        message=message,
        facts=notes,
        next_steps=[step],
    )
    return Ended(state, response)


def under_way(call_id: str) -> pb.CallResponse:
    """The recorded call has not ended, and nobody here executes it."""
    return pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_TIMEOUT,
        code="UNDER_WAY",
        message="the call has not ended yet",
        next_steps=["ask again with the same request_id, or GetCall"],
    )


def explanation(facts: Facts, decision: Decision) -> pb.ExplainCallResponse:
    """A decision in words; nothing was written."""
    held = decision.capability.level if decision.capability is not None else Level.L0
    response = pb.ExplainCallResponse(
        allowed=decision.outcome is not Outcome.DENY,
        code=decision.code,
        message=decision.message,
        check=decision.check.name.lower(),
        check_number=decision.check.value,
        facts=what_is_known(facts, decision),
        level_required=level_to_proto(facts.level),
        level_held=level_to_proto(held),
    )
    if decision.recorded is not None:
        response.message = "the recorded answer would be given, nothing executed"
        response.facts["call_id"] = decision.recorded.call_id
    if not response.allowed:
        denied = refusal(facts, decision, explaining=True)
        response.facts.update(denied.facts)
        response.next_steps.extend(denied.next_steps)
    return response


def level_to_proto(level: Level) -> pb.AccessLevel.ValueType:
    """L0 is 1 on the wire: 0 is for who said nothing."""
    return cast("pb.AccessLevel.ValueType", level.value + 1)
