"""What a caller is told of a call that was UNKNOWN and has been cleared up: CallResponses."""

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import answers
from nanoclaw_broker.ledger import Kind
from nanoclaw_broker.providers import Result
from nanoclaw_broker.secrets import Secrets
from nanoclaw_broker.settlement import CODE, STATE, Outcome

_STATUS = {
    Outcome.HAPPENED: pb.CALL_STATUS_EXECUTED,
    Outcome.DID_NOT_HAPPEN: pb.CALL_STATUS_FAILED,
    Outcome.UNDONE: pb.CALL_STATUS_FAILED,
    Outcome.GIVEN_UP: pb.CALL_STATUS_TIMEOUT,
}
_MESSAGE = {
    Outcome.HAPPENED: "it had ended without a reply; it has happened",
    Outcome.DID_NOT_HAPPEN: "it had ended without a reply; it has not happened",
    Outcome.UNDONE: "it had ended without a reply; whatever had happened has been undone",
    Outcome.GIVEN_UP: "it ended without a reply; nobody will know whether it happened",
}
_NEXT_STEPS = {
    Outcome.HAPPENED: (),
    Outcome.DID_NOT_HAPPEN: ("send it again under a new request_id and a new idempotency_key, if it is still wanted",),
    Outcome.UNDONE: ("send it again under a new request_id and a new idempotency_key, if it is still wanted",),
    Outcome.GIVEN_UP: ("do not repeat it without looking at the other side",),
}


def settled(call_id: str, outcome: Outcome, by: str) -> pb.CallResponse:
    """The answer where there is nothing to pass on but what became of it. by: the principal that said so."""
    return pb.CallResponse(
        call_id=call_id,
        status=_STATUS[outcome],
        code=CODE[outcome],
        message=_MESSAGE[outcome],
        facts={"settled_by": by, "settled_as": STATE[outcome].value},
        next_steps=_NEXT_STEPS[outcome],
    )


def found(call_id: str, result: Result, by: str, secrets: Secrets) -> pb.CallResponse:
    """It has happened, and the provider says with what result."""
    answer = settled(call_id, Outcome.HAPPENED, by)
    answer.MergeFrom(answers.executed(call_id, Kind.MUTATING, result, {}, secrets).response)
    if not answer.message:
        answer.message = _MESSAGE[Outcome.HAPPENED]
    return answer
