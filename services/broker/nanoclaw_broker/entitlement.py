"""Whether there is anything to vote on, and whether a caller may: what refuses a vote, each with its way out."""

import sqlite3
from typing import Any, cast

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import awaiting, pendings, records, vote, votes
from nanoclaw_broker.decision import Decision
from nanoclaw_broker.facts import Task
from nanoclaw_broker.ledger import State
from nanoclaw_broker.policy import Check
from nanoclaw_core.errors import Kind, NanoclawError, denied, invalid, not_found
from nanoclaw_core.ids import check_request_id
from nanoclaw_core.principal import Caller
from nanoclaw_store import Tx

MOST_NOTES = 500
_PASSING = frozenset({Check.KILL_SWITCH, Check.BUSY, Check.SECRETS, Check.LIMITS})
"""What stands in the way now and may not in an hour: the vote is refused, and the call goes on waiting."""

PENDING = "list those that wait with ListPendingCalls, or `nanoclaw calls pending`"
_ANEW = "have it asked for anew"

Request = pb.ApproveCallRequest | pb.RejectCallRequest


def check_form(request: Request) -> None:
    """Raises INVALID_FIELD."""
    check_request_id(request.request_id)
    if not request.call_id:
        raise invalid("call_id", "is empty", PENDING)
    if len(request.notes) > MOST_NOTES:
        raise invalid("notes", f"has more than {MOST_NOTES} characters", "say it shorter")


def waiting_row(tx: Tx, request: Request) -> sqlite3.Row:
    """The row of a call that waits, in this transaction, and for what the digest says.

    Raises CALL_NOT_FOUND, NOT_AWAITING_APPROVAL, APPROVAL_EXPIRED, APPROVAL_VOID, DIGEST_MISMATCH.
    """
    row = records.by_id(tx, request.call_id)
    if row is None:
        raise not_found("call", request.call_id, "call_id", PENDING)
    if row["state"] == State.EXPIRED.value:
        raise NanoclawError(Kind.PRECONDITION, row["code"], row["reason"], next_step=_ANEW)
    if row["state"] != State.AWAITING_APPROVAL.value:
        raise NanoclawError(
            Kind.PRECONDITION,
            "NOT_AWAITING_APPROVAL",
            f"call {request.call_id} is {row['state']}, there is nothing to vote on",
            next_step=PENDING,
            state=row["state"],
        )
    asked = pendings.find(tx, request.call_id)
    assert asked is not None
    if asked["expires_at"] <= tx.now:
        raise NanoclawError(Kind.PRECONDITION, awaiting.APPROVAL_EXPIRED, awaiting.TOO_LATE, next_step=_ANEW)
    if request.params_digest != asked["params_digest"]:
        raise NanoclawError(
            Kind.PRECONDITION,
            "DIGEST_MISMATCH",
            f"params_digest is not that of call {request.call_id}",
            next_step="look at it with ListPendingCalls, and vote with the digest shown there",
        )
    return row


def check_voter(tx: Tx, call: sqlite3.Row, task: Task, caller: Caller) -> None:
    """Raises CALL_NOT_FOUND for a group whose business it is not, VOTE_NOT_YOURS, ALREADY_VOTED."""
    party = vote.party_of(caller)
    why = vote.exclusion(caller.principal, party, call["group_name"], task.executors)
    if why:
        raise denied("VOTE_NOT_YOURS", f"{caller.principal} {why}, so it has no vote on it", "leave it to others")
    if caller.group and not vote.concerns(party, task.approver_group):
        raise not_found("call", call["call_id"], "call_id", PENDING)
    check_first(tx, call, party)


def check_first(tx: Tx, call: sqlite3.Row, party: str) -> None:
    """Raises ALREADY_VOTED."""
    if any(party == row["party"] for row in votes.of_call(tx, call["call_id"])):
        raise NanoclawError(
            Kind.CONFLICT, "ALREADY_VOTED", f"{party} has voted on it", next_step="the next vote is somebody else's"
        )


def refused(decision: Decision, steps: tuple[str, ...]) -> NanoclawError:
    """Why a vote can't be cast on a call that would be denied now; APPROVAL_VOID where it won't be allowed any more."""
    if decision.check in _PASSING or decision.passing:
        return NanoclawError(
            Kind.PRECONDITION,
            decision.code,
            decision.message,
            next_step="; ".join(steps),
            **cast("Any", decision.facts),
        )
    return NanoclawError(
        Kind.PRECONDITION,
        awaiting.APPROVAL_VOID,
        f"it would no longer be allowed as it was asked for: {decision.message}",
        next_step=_ANEW,
        moved=decision.facts.get("moved", decision.code),
    )
