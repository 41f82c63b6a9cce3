"""The effect ledger on disk: each step of a call's life, with its row in the log; functions that take a tx."""

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from nanoclaw_broker import breakers, budgets, kept_params
from nanoclaw_broker.breaker import Circuit
from nanoclaw_broker.deeds import BROKER, log_deed
from nanoclaw_broker.facts import Ask, Facts
from nanoclaw_broker.ledger import KEEPING, PENDING, Kind, State, UnknownEnd, first_state
from nanoclaw_broker.policy import POLICY_VERSION
from nanoclaw_broker.tables import answers, calls, refusals
from nanoclaw_core.principal import Caller
from nanoclaw_store import Change, Tx, prepare

_END = ("state", "code", "reason", "result_summary", "answer_sha256", "duration_ms", "cost_micros", "updated_at")
_INSERT = prepare(insert(calls))
_STEP = prepare(
    update(calls)
    .where(calls.c.call_id == bindparam("which"), calls.c.state == bindparam("was"))
    .values(state=bindparam("state"), updated_at=bindparam("updated_at"))
)
_SETTLE = prepare(
    update(calls)
    .where(calls.c.call_id == bindparam("which"), calls.c.state == bindparam("was"))
    .values({name: bindparam(name) for name in _END})
)
_ANSWER = prepare(insert(answers))
_FIND_ANSWER = prepare(
    select(answers.c.answer)
    .where(answers.c.call_id == bindparam("which"))
    .order_by(answers.c.given.desc())  # a settlement before the end
    .limit(1)
)
_PENDING = prepare(
    select(calls).where(calls.c.state.in_(sorted(state.value for state in PENDING))).order_by(calls.c.call_id)
)
_counted = upsert(refusals).values(count=1)
_COUNT = prepare(
    _counted.on_conflict_do_update(
        index_elements=["group_name", "code", "minute"],
        set_={"count": refusals.c.count + 1, "last_at": _counted.excluded.last_at},
    ),
    columns=("group_name", "code", "minute", "last_at"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a new row of the ledger says besides the facts of its decision.

    kept: the parameters, encrypted, where a later step may need them.
    """

    call_id: str
    kind: Kind | None
    unknown_ends_by: UnknownEnd | None
    params_summary: str
    principal: str
    via: str
    trace_id: str
    kept: bytes = b""


@dataclass(frozen=True, slots=True)
class Stake:
    """What a claim has set aside. claimed_at: TEXT. circuit: whose breaker it counts for; empty: none."""

    group: str
    claimed_at: str
    reserved_micros: int = 0
    circuit: str = ""


def stake_of(call: sqlite3.Row) -> Stake:
    """What a call of the ledger has set aside."""
    return Stake(call["group_name"], call["created_at"], call["cost_micros"], call["circuit"])


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended.

    answer: the CallResponse that its caller gets, serialised. in_trouble: it counts as a failure of the other
    side; None: it says nothing about it.
    """

    state: State
    code: str
    reason: str
    result_summary: str
    answer: bytes
    duration_ms: int = 0
    cost_micros: int = 0
    in_trouble: bool | None = False

    @property
    def columns(self) -> dict[str, Any]:
        """Its columns in the ledger."""
        return {
            "state": self.state.value,
            "code": self.code,
            "reason": self.reason,
            "result_summary": self.result_summary,
            "answer_sha256": hashlib.sha256(self.answer).hexdigest(),
            "duration_ms": self.duration_ms,
            "cost_micros": self.cost_micros,
        }


def claim(tx: Tx, facts: Facts, capability_id: str, entry: Entry, state: State | None = None, *beside: Change) -> None:
    """Writes an allowed call: PREPARED, or SENT for a pure one, unless told. Decide in the same transaction.

    beside: what was written with it.
    """
    assert entry.kind is not None
    columns = _columns(tx, facts, entry) | {
        "state": (state or first_state(entry.kind)).value,
        "code": "",
        "reason": "",
        "result_summary": "",
        "answer_sha256": "",
        "capability_id": capability_id,
        "claim_number": 1 + facts.usage.claims,
        "claim_of_day": 1 + facts.usage.today,
        "duration_ms": 0,
        "cost_micros": facts.budget.worst_micros,
        "circuit": facts.circuit.name,
    }
    _write(tx, facts.ask, entry, "claim" if state is None else "ask", columns, *beside)
    if facts.budget.worst_micros:
        budgets.reserve(tx, facts.ask.group, facts.budget.worst_micros)
    if state is not State.AWAITING_APPROVAL:
        _probe(tx, facts.circuit, entry.call_id)
    if entry.kept and (state is State.AWAITING_APPROVAL or entry.unknown_ends_by in KEEPING):
        kept_params.keep(tx, entry.call_id, entry.kept)


def _probe(tx: Tx, circuit: Circuit, call_id: str) -> None:
    """A call that is let through while the circuit is not closed is its probe."""
    if circuit.opened_at:
        breakers.change(tx, circuit.name, lambda now: now.probing(call_id))


def deny(tx: Tx, facts: Facts, capability_id: str, entry: Entry, end: End) -> None:
    """Writes a refusal, with its answer."""
    columns = _columns(tx, facts, entry) | end.columns
    columns |= {"capability_id": capability_id, "claim_number": 0, "claim_of_day": 0}
    _write(tx, facts.ask, entry, "deny", columns)
    tx.run(_ANSWER, call_id=entry.call_id, given="end", answer=end.answer)


def _columns(tx: Tx, facts: Facts, entry: Entry) -> dict[str, Any]:
    ask, task = facts.ask, facts.task
    told = task is not None and task.found and task.concerns(ask.group)
    return {
        "request_id": ask.request_id,
        "group_name": ask.group,
        "attempt_id": ask.attempt,
        "provider": ask.provider,
        "action": ask.action,
        "kind": entry.kind.value if entry.kind is not None else "",
        "level": facts.level.value,
        "params_hmac": ask.params_hmac,
        "params_summary": entry.params_summary,
        "task_id": ask.task_id,
        "product_id": task.product_id if task is not None and told else "",
        "scope": task.scope if task is not None and told else "",
        "idempotency_key": ask.idempotency_key,
        "policy_version": POLICY_VERSION,
        "trace_id": entry.trace_id,
        "created_at": tx.now,
        "updated_at": tx.now,
        "unknown_ends_by": entry.unknown_ends_by.value if entry.unknown_ends_by is not None else "",
        "cost_micros": 0,
        "circuit": "",
        "lane": ask.lane.value,
    }


def _write(tx: Tx, ask: Ask, entry: Entry, action: str, columns: dict[str, Any], *beside: Change) -> None:
    tx.run(_INSERT, call_id=entry.call_id, **columns)
    log_deed(
        tx,
        Caller(entry.principal, via=entry.via, attempt=ask.attempt),
        action,
        _image(entry.call_id, columns),
        *beside,
        request_id=ask.request_id,
        trace_id=entry.trace_id,
        subject=entry.call_id,
        task_id=ask.task_id,
        to_state=columns["state"],
        reason=columns["code"],
    )


def _image(call_id: str, columns: dict[str, Any]) -> Change:
    return Change(calls.name, {"call_id": call_id}, columns)


def count_refusal(tx: Tx, group: str, code: str) -> None:
    """Counts a refusal that gets no row of its own."""
    tx.run(_COUNT, group_name=group, code=code, minute=tx.now[:16], last_at=tx.now)


def mark_sent(tx: Tx, call_id: str, trace_id: str) -> None:
    """From here on something may have left the machine."""
    _step(tx, "send", call_id, State.PREPARED, State.SENT, trace_id)


def release(tx: Tx, call_id: str, circuit: Circuit, trace_id: str) -> None:
    """It has got its votes, and they are used up; from here on it is like any call that is allowed."""
    _probe(tx, circuit, call_id)
    _step(tx, "release", call_id, State.AWAITING_APPROVAL, State.PREPARED, trace_id)


def _step(tx: Tx, action: str, call_id: str, was: State, becomes: State, trace_id: str) -> None:
    columns = {"state": becomes.value, "updated_at": tx.now}
    if tx.run(_STEP, which=call_id, was=was.value, **columns) != 1:
        raise AssertionError(f"call {call_id} is not {was}")
    _log_step(tx, action, call_id, was, columns, trace_id)


def settle(
    tx: Tx,
    call_id: str,
    was: State,
    end: End,
    stake: Stake,
    trace_id: str,
    action: str = "settle",
    *,
    kept: bool = True,
) -> None:
    """Writes how it ended, with the answer that is given from now on, and gives back what it had set aside.

    kept: whether parameters of it may be kept.
    """
    columns = end.columns | {"updated_at": tx.now}
    if tx.run(_SETTLE, which=call_id, was=was.value, **columns) != 1:
        raise AssertionError(f"call {call_id} is not {was}")
    tx.run(_ANSWER, call_id=call_id, given="end", answer=end.answer)
    if kept and end.state is not State.UNKNOWN:
        kept_params.forget(tx, call_id)
    budgets.settle(tx, call_id, stake.group, stake.claimed_at, stake.reserved_micros, end.cost_micros)
    breakers.change(tx, stake.circuit, partial(_told, call_id=call_id, was=was, end=end, now=tx.now))
    _log_step(tx, action, call_id, was, columns, trace_id)


def _told(circuit: Circuit, *, call_id: str, was: State, end: End, now: str) -> Circuit:
    """What a circuit makes of an end."""
    if was is not State.SENT or end.in_trouble is None:
        return circuit.says_nothing(call_id)
    return circuit.failed(now, call_id) if end.in_trouble else circuit.answered(call_id)


def _log_step(tx: Tx, action: str, call_id: str, was: State, columns: dict[str, Any], trace_id: str) -> None:
    log_deed(
        tx,
        BROKER,
        action,
        _image(call_id, columns),
        trace_id=trace_id,
        subject=call_id,
        from_state=was.value,
        to_state=columns["state"],
        reason=columns.get("code", ""),
    )


def answer_of(tx: Tx, call_id: str) -> bytes | None:
    """The recorded answer, that of its settlement once there is one; None while the call is under way."""
    row = tx.one(_FIND_ANSWER, which=call_id)
    return None if row is None else row["answer"]


def pending(tx: Tx) -> Sequence[sqlite3.Row]:
    """Every call that is under way, whole rows."""
    return tx.all(_PENDING)
