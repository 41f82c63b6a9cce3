"""What a caller is told of how a call ended: CallResponses."""

import json
from dataclasses import dataclass, replace
from typing import cast

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.ledger import EFFECT_UNKNOWN, NEVER_SENT, NO_REPLY, Kind, State
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import ActionFailed, Result
from nanoclaw_broker.secrets import SCRUBBED, Secrets

MOST_BYTES = 50_000
"""Of what an action answered."""
MOST_SCRUBBED = 4 * MOST_BYTES
"""Of the same before the secrets are taken out, in characters: it takes half a second for each million."""
_MOST_SUMMARY = 200
MOST_TEXT = 2_000

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
    """How a call ended, and what is said about it.

    cost_micros: None where it must be taken for what was reserved. in_trouble: counts for the circuit breaker;
    None where it says nothing about the other side.
    """

    state: State
    response: pb.CallResponse
    cost_micros: int | None = 0
    in_trouble: bool | None = False

    @property
    def reason(self) -> str:
        """One line for the ledger: empty where it worked."""
        return "" if self.state is State.EXECUTED else self.response.message[:_MOST_SUMMARY]


def one_line(text: str) -> str:
    """A summary as the ledger takes it."""
    return " ".join(text.split())[:_MOST_SUMMARY]


def executed(call_id: str, kind: Kind, result: Result, notes: dict[str, str], secrets: Secrets) -> Ended:
    """It worked. What can't be passed on fails a call that changed nothing, and is left out of one that did."""
    too_large = f"the answer is larger than {MOST_BYTES} bytes"
    try:
        if len(_encode(result.data)) > MOST_SCRUBBED:
            return _not_passed_on(call_id, kind, notes, result, "ANSWER_TOO_LARGE", too_large)
        text = _encode(secrets.scrub_value(result.data))
        text.encode()
    except (ValueError, TypeError, RecursionError):
        return _not_passed_on(call_id, kind, notes, result, "ANSWER_NOT_JSON", "the answer is not JSON")
    text = _scrub_json(text, secrets)
    if len(text) > MOST_BYTES or len(text.encode()) > MOST_BYTES:
        return _not_passed_on(call_id, kind, notes, result, "ANSWER_TOO_LARGE", too_large)
    response = pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_EXECUTED,
        code="OK",
        data_json=text,
        summary=one_line(secrets.scrub(result.summary)),
        facts=notes,
    )
    return Ended(State.EXECUTED, response, result.cost_micros)


def _scrub_json(text: str, secrets: Secrets) -> str:
    """A secret may also be a number, or spread over several values: then nothing of the answer is passed on."""
    scrubbed = secrets.scrub(text)
    if scrubbed != text:
        try:
            json.loads(scrubbed)
        except ValueError:
            return _encode(SCRUBBED)
    return scrubbed


def _not_passed_on(call_id: str, kind: Kind, notes: dict[str, str], result: Result, code: str, message: str) -> Ended:
    if kind is Kind.MUTATING:
        response = pb.CallResponse(
            call_id=call_id,
            status=pb.CALL_STATUS_EXECUTED,
            code="OK",
            message=f"it was done; {message}, so it is left out",
            facts={**notes, "left_out": code},
        )
        return Ended(State.EXECUTED, response, result.cost_micros)
    return replace(failed(call_id, code, message, ("ask for less",), notes), cost_micros=result.cost_micros)


def failed(call_id: str, code: str, message: str, next_steps: tuple[str, ...], notes: dict[str, str]) -> Ended:
    """The other side said no, or nothing could be passed on."""
    response = pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_FAILED,
        code=code,
        message=message[:MOST_TEXT],
        facts=notes,
        next_steps=next_steps,
    )
    return Ended(State.FAILED, response)


def refused_by_provider(call_id: str, error: ActionFailed, notes: dict[str, str], secrets: Secrets) -> Ended:
    """What the action made of the other side's no."""
    known = {secrets.scrub(name): secrets.scrub(value)[:MOST_TEXT] for name, value in error.facts.items()}
    steps = tuple(secrets.scrub(step)[:MOST_TEXT] for step in error.next_steps)
    ended = failed(call_id, error.code, secrets.scrub(error.message), steps, {**notes, **known})
    return replace(ended, cost_micros=error.cost_micros, in_trouble=error.in_trouble)


def never_sent(call_id: str) -> Ended:
    """It was claimed, and the broker stopped before anything left."""
    message = "the broker stopped before it was sent; nothing has happened"
    step = "send it again under a new request_id; its idempotency_key is free"
    return failed(call_id, NEVER_SENT, message, (step,), {})


def without_reply(
    call_id: str, state: State, why: str, notes: dict[str, str], *, in_trouble: bool | None = True
) -> Ended:
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
    return Ended(state, response, None, in_trouble)


def under_way(call_id: str) -> pb.CallResponse:
    """The recorded call has not ended, and nobody here executes it."""
    return pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_TIMEOUT,
        code="UNDER_WAY",
        message="the call has not ended yet",
        next_steps=["ask again with the same request_id, or GetCall"],
    )


def level_to_proto(level: Level) -> pb.AccessLevel.ValueType:
    """L0 is 1 on the wire: 0 is for who said nothing."""
    return cast("pb.AccessLevel.ValueType", level.value + 1)


def unknown_end_to_proto(ends_by: str) -> pb.UnknownEndsBy.ValueType:
    """How an unknown end is cleared up, on the wire; empty is unspecified."""
    return pb.UnknownEndsBy.Value(f"UNKNOWN_ENDS_BY_{ends_by.upper() or 'UNSPECIFIED'}")
