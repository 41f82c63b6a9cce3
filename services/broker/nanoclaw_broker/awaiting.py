"""What is answered of a call that waits for votes, and of one that waited in vain: CallResponses."""

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.answers import MOST_TEXT, Ended
from nanoclaw_broker.ledger import State

APPROVAL_PENDING = "APPROVAL_PENDING"
APPROVAL_EXPIRED = "APPROVAL_EXPIRED"
APPROVAL_VOID = "APPROVAL_VOID"
APPROVAL_REJECTED = "APPROVAL_REJECTED"
TOO_LATE = "it had not got its votes in time"


def pending(call_id: str, params_digest: str, expires_at: str, cast: int, *, operator_needed: bool) -> pb.CallResponse:
    """It waits. cast: how many votes there are. The same whether it was asked just now or again."""
    who = "two principals of different groups, neither of them an executor of the task"
    if operator_needed:
        who += ", one an operator"
    return pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_DENIED,
        code=APPROVAL_PENDING,
        message=f"the call waits for votes until {expires_at}; nothing has been sent",
        facts={
            "check": "18 votes",
            "params_digest": params_digest,
            "expires_at": expires_at,
            "votes": str(cast),
        },
        next_steps=[
            f"have call {call_id} approved by {who}",
            "then ask again with the same idempotency_key, or as it was: the answer is the outcome",
        ],
    )


def lapsed(call_id: str, code: str, why: str) -> Ended:
    """It waited in vain: too long, or for something that is no longer as it was. Nobody decided against it."""
    return _ended(State.EXPIRED, call_id, code, f"{why}; nothing was sent")


def rejected(call_id: str, principal: str, notes: str) -> Ended:
    """Voted down."""
    return _ended(
        State.REJECTED,
        call_id,
        APPROVAL_REJECTED,
        f"{principal} voted against it{': ' + notes if notes else ''}; nothing was sent",
    )


def _ended(state: State, call_id: str, code: str, message: str) -> Ended:
    step = "if it is still wanted, ask for it anew: new request_id, and new idempotency_key if it had one"
    response = pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_DENIED,
        code=code,
        message=message[:MOST_TEXT],
        next_steps=[step],
    )
    return Ended(state, response)
