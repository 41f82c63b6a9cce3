"""Calls that wait for votes, on disk: opened, looked at, ended or let go on; functions that take a tx."""

import sqlite3
from datetime import timedelta

from sqlalchemy import and_, bindparam, func, insert, or_, select

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import awaiting, calls, votes
from nanoclaw_broker.answers import Ended
from nanoclaw_broker.calls import Entry
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.checks.votes import grounds_of
from nanoclaw_broker.execution import as_end
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.ledger import State
from nanoclaw_broker.policy import POLICY_VERSION
from nanoclaw_broker.tables import calls as ledger
from nanoclaw_broker.tables import capabilities, pending
from nanoclaw_broker.vote import Ballot, Grounds
from nanoclaw_core.clock import from_text, to_text
from nanoclaw_store import Change, Tx, prepare

_INSERT = prepare(insert(pending))
_FIND = prepare(select(pending).where(pending.c.call_id == bindparam("which")))
_waiting = ledger.c.state == State.AWAITING_APPROVAL.value
_joined = ledger.join(pending, pending.c.call_id == ledger.c.call_id)
_PAGE = prepare(
    select(ledger)
    .select_from(_joined)
    .where(
        _waiting,
        ledger.c.call_id > bindparam("after"),
        pending.c.expires_at > bindparam("now"),
        or_(bindparam("group_name") == "", ledger.c.group_name == bindparam("group_name")),
        or_(bindparam("task_id") == "", ledger.c.task_id == bindparam("task_id")),
    )
    .order_by(ledger.c.call_id)
    .limit(bindparam("most"))
)
_LAPSED = prepare(
    select(ledger, pending.c.expires_at)
    .select_from(_joined.join(capabilities, capabilities.c.id == ledger.c.capability_id))
    .where(
        _waiting,
        or_(bindparam("which") == "", ledger.c.call_id == bindparam("which")),
        or_(
            pending.c.expires_at <= bindparam("now"),
            ledger.c.policy_version != bindparam("policy_version"),
            capabilities.c.changes != pending.c.capability_changes,
            and_(capabilities.c.expires_at != "", capabilities.c.expires_at <= bindparam("now")),
        ),
    )
)
_NEXT = prepare(select(func.min(pending.c.expires_at)).select_from(_joined).where(_waiting))


def open_(tx: Tx, facts: Facts, capability: Capability, entry: Entry, params_digest: str) -> pb.CallResponse:
    """Writes a call that is allowed but for its votes; the answer to it."""
    grounds = grounds_of(facts, capability)
    expires_at = to_text(from_text(tx.now) + timedelta(seconds=facts.limits.approval_seconds))
    columns = {
        "params_digest": params_digest,
        "task_version": grounds.task_version,
        "capability_changes": grounds.capability_changes,
        "expires_at": expires_at,
    }
    beside = Change(pending.name, {"call_id": entry.call_id}, columns)
    tx.run(_INSERT, call_id=entry.call_id, **columns)
    calls.claim(tx, facts, capability.id, entry, State.AWAITING_APPROVAL, beside)
    operator_needed = facts.limits.operator_votes
    return awaiting.pending(entry.call_id, params_digest, expires_at, 0, operator_needed=operator_needed)


def find(tx: Tx, call_id: str) -> sqlite3.Row | None:
    """What a call was asked under, whatever has become of it."""
    return tx.one(_FIND, which=call_id)


def ballot(tx: Tx, call: sqlite3.Row) -> Ballot:
    """The votes for a call of the ledger, and what it was asked under."""
    asked = find(tx, call["call_id"])
    assert asked is not None
    grounds = Grounds(asked["task_version"], call["capability_id"], asked["capability_changes"], call["policy_version"])
    cast = tuple(votes.as_vote(row) for row in votes.of_call(tx, call["call_id"]) if row["approve"])
    return Ballot(asked["params_digest"], grounds, cast)


def answer(tx: Tx, call_id: str, *, operator_needed: bool) -> pb.CallResponse:
    """What is answered of a call in AWAITING_APPROVAL."""
    asked = find(tx, call_id)
    assert asked is not None
    cast = sum(row["approve"] for row in votes.of_call(tx, call_id))
    return awaiting.pending(call_id, asked["params_digest"], asked["expires_at"], cast, operator_needed=operator_needed)


def page(tx: Tx, after: str, most: int, group: str = "", task_id: str = "") -> list[sqlite3.Row]:
    """Those that wait, oldest first, whole rows of the ledger."""
    return tx.all(_PAGE, after=after, most=most, now=tx.now, group_name=group, task_id=task_id)


def end(tx: Tx, call: sqlite3.Row, ended: Ended) -> None:
    """Ends one that waits: EXPIRED or REJECTED; its parameters are forgotten, what it might cost is given back."""
    action = "expire" if ended.state is State.EXPIRED else "turn_down"
    stake = calls.stake_of(call)
    was = State.AWAITING_APPROVAL
    calls.settle(tx, call["call_id"], was, as_end(ended, stake), stake, call["trace_id"], action=action)


def lapse(tx: Tx, call_id: str = "") -> int:
    """Ends those (the one named, or all) whose time is over, or whose grant or policy moved; answers how many.

    Whether the task moved is known to governance, and looked at when a vote is cast.
    """
    rows = tx.all(_LAPSED, which=call_id, now=tx.now, policy_version=POLICY_VERSION)
    for row in rows:
        if row["expires_at"] <= tx.now:
            ended = awaiting.lapsed(row["call_id"], awaiting.APPROVAL_EXPIRED, awaiting.TOO_LATE)
        else:
            moved = "the policy" if row["policy_version"] != POLICY_VERSION else "the grant"
            why = f"{moved} moved since it was asked for"
            ended = awaiting.lapsed(row["call_id"], awaiting.APPROVAL_VOID, why)
        end(tx, row, ended)
    return len(rows)


def next_end(tx: Tx) -> str:
    """When the next one that waits expires; empty where none waits."""
    row = tx.one(_NEXT)
    return "" if row is None or row[0] is None else str(row[0])
