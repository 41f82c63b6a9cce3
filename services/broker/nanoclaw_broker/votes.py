"""Votes on disk: functions that take a tx."""

import sqlite3

from sqlalchemy import bindparam, insert, select

from nanoclaw_broker.deeds import log_deed
from nanoclaw_broker.tables import votes
from nanoclaw_broker.vote import Vote, party_of
from nanoclaw_core.principal import Caller
from nanoclaw_store import Change, Tx, prepare

_OF_CALL = prepare(
    select(votes).where(votes.c.call_id == bindparam("which")).order_by(votes.c.voted_at, votes.c.principal)
)
_INSERT = prepare(insert(votes))


def of_call(tx: Tx, call_id: str) -> list[sqlite3.Row]:
    """Those cast, in their order, whole rows."""
    return tx.all(_OF_CALL, which=call_id)


def as_vote(row: sqlite3.Row) -> Vote:
    """The rule's view of a row."""
    return Vote(row["principal"], row["party"], row["params_digest"])


def cast(
    tx: Tx,
    call_id: str,
    task_id: str,
    by: Caller,
    params_digest: str,
    *,
    approve: bool,
    notes: str,
    request_id: str,
    trace_id: str,
) -> None:
    """Writes one. Decide in the same transaction."""
    key = {"call_id": call_id, "principal": by.principal}
    columns = {
        "party": party_of(by),
        "approve": int(approve),
        "params_digest": params_digest,
        "notes": notes,
        "via": by.via,
        "attempt_id": by.attempt,
        "voted_at": tx.now,
    }
    tx.run(_INSERT, **key, **columns)
    log_deed(
        tx,
        by,
        "approve" if approve else "reject",
        Change(votes.name, key, columns),
        request_id=request_id,
        trace_id=trace_id,
        subject=call_id,
        task_id=task_id,
        reason=notes,
    )
