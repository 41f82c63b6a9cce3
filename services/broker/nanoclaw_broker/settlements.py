"""How UNKNOWN calls were cleared up, on disk; functions that take a tx."""

import hashlib
import sqlite3

from sqlalchemy import bindparam, func, insert, select, update

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import budgets, kept_params, records
from nanoclaw_broker.deeds import log_deed
from nanoclaw_broker.ledger import State
from nanoclaw_broker.settlement import CODE, STATE, Outcome
from nanoclaw_broker.tables import answers, calls, settlements
from nanoclaw_core.principal import Caller
from nanoclaw_store import Change, Tx, prepare

_UNKNOWN = prepare(
    select(calls)
    .where(calls.c.state == State.UNKNOWN.value, calls.c.call_id > bindparam("after"))
    .order_by(calls.c.call_id)
    .limit(bindparam("most"))
)
_OLDEST = prepare(select(func.min(calls.c.created_at)).where(calls.c.state == State.UNKNOWN.value))
_CLEAR = prepare(
    update(calls)
    .where(calls.c.call_id == bindparam("which"), calls.c.state == State.UNKNOWN.value)
    .values({name: bindparam(name) for name in ("state", "code", "result_summary", "cost_micros", "updated_at")})
)
_INSERT = prepare(insert(settlements))
_ANSWER = prepare(insert(answers))
_FIND = prepare(select(settlements).where(settlements.c.call_id == bindparam("which")))


def unknown(tx: Tx, after: str, most: int) -> list[sqlite3.Row]:
    """Calls in UNKNOWN with ids above `after`, oldest first, whole rows."""
    return tx.all(_UNKNOWN, after=after, most=most)


def oldest_unknown(tx: Tx) -> str:
    """When the oldest call that is still UNKNOWN was made; empty where there is none."""
    row = tx.one(_OLDEST)
    return "" if row is None or row[0] is None else str(row[0])


def find(tx: Tx, call_id: str) -> sqlite3.Row | None:
    """How a call was cleared up; None where it was not."""
    return tx.one(_FIND, which=call_id)


def clear_up(
    tx: Tx,
    call_id: str,
    outcome: Outcome,
    answer: pb.CallResponse,
    by: Caller,
    note: str,
    *,
    request_id: str = "",
    trace_id: str = "",
) -> bool:
    """Writes what became of an UNKNOWN call, with the answer given from now on; False where it is UNKNOWN no more."""
    recorded, row = answer.SerializeToString(), records.by_id(tx, call_id)
    if row is None or row["state"] != State.UNKNOWN.value:
        return False
    nothing_spent = outcome in (Outcome.DID_NOT_HAPPEN, Outcome.UNDONE)
    columns = {
        "state": STATE[outcome].value,
        "code": CODE[outcome],
        "result_summary": answer.summary,
        "cost_micros": 0 if nothing_spent else row["cost_micros"],
        "updated_at": tx.now,
    }
    tx.run(_CLEAR, which=call_id, **columns)
    if nothing_spent:
        budgets.refund(tx, row["group_name"], row["created_at"], row["cost_micros"])
    settled = {
        "outcome": outcome.value,
        "principal": by.principal,
        "note": note,
        "answer_sha256": hashlib.sha256(recorded).hexdigest(),
        "settled_at": tx.now,
    }
    tx.run(_INSERT, call_id=call_id, **settled)
    tx.run(_ANSWER, call_id=call_id, given="settlement", answer=recorded)
    kept_params.forget(tx, call_id)
    log_deed(
        tx,
        by,
        "clear_up",
        Change(calls.name, {"call_id": call_id}, columns),
        Change(settlements.name, {"call_id": call_id}, settled),
        request_id=request_id,
        trace_id=trace_id,
        subject=call_id,
        from_state=State.UNKNOWN.value,
        to_state=STATE[outcome].value,
        reason=note,
    )
    return True
