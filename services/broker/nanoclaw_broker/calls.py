"""The effect ledger on disk: what a decision needs of it, and the steps of a call; functions that take a tx."""

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from nanoclaw_broker import capabilities
from nanoclaw_broker.facts import Ask, Facts, Recorded, Skill, Task, Usage
from nanoclaw_broker.ledger import PENDING, Kind, State, first_state
from nanoclaw_broker.policy import POLICY_VERSION, Level, Limits
from nanoclaw_broker.tables import LOG, answers, calls, refusals
from nanoclaw_store import Change, Tx, prepare

BROKER = "service:broker"

_of_group = calls.c.group_name == bindparam("group_name")
_recorded = select(
    calls.c.call_id,
    calls.c.state,
    calls.c.provider,
    calls.c.action,
    calls.c.params_hmac,
    calls.c.task_id,
    calls.c.idempotency_key,
)
_SEEN = prepare(_recorded.where(_of_group, calls.c.request_id == bindparam("request_id")))
_KEYED = prepare(
    _recorded.where(
        _of_group,
        calls.c.idempotency_key == bindparam("idempotency_key"),
        calls.c.idempotency_key != "",
        calls.c.state != State.DENIED.value,
        calls.c.code != "NEVER_SENT",
    )
)
_is_pending = calls.c.state.in_(sorted(state.value for state in PENDING))
_PENDING = prepare(select(func.count()).select_from(calls).where(_of_group, _is_pending))
_claims = select(calls.c.claim_number, calls.c.claim_of_day, calls.c.created_at).where(
    _of_group, calls.c.level == bindparam("level"), calls.c.claim_number > 0
)
_LAST_CLAIM = prepare(_claims.order_by(calls.c.claim_number.desc()).limit(1))
_CLAIM = prepare(_claims.where(calls.c.claim_number == bindparam("number")))
_INSERT = prepare(insert(calls))
_SENT = prepare(
    update(calls)
    .where(calls.c.call_id == bindparam("which"), calls.c.state == State.PREPARED.value)
    .values(state=State.SENT.value, updated_at=bindparam("updated_at"))
)
_SETTLE = prepare(
    update(calls)
    .where(calls.c.call_id == bindparam("which"), calls.c.state == bindparam("was"))
    .values(
        {
            name: bindparam(name)
            for name in ("state", "code", "reason", "result_summary", "answer_sha256", "duration_ms", "updated_at")
        }
    )
)
_ANSWER = prepare(insert(answers))
_FIND_ANSWER = prepare(select(answers.c.answer).where(answers.c.call_id == bindparam("which")))
_FIND_PENDING = prepare(select(calls).where(_is_pending).order_by(calls.c.call_id))
_counted = upsert(refusals).values(count=1)
_COUNT = prepare(
    _counted.on_conflict_do_update(
        index_elements=["group_name", "code", "minute"],
        set_={"count": refusals.c.count + 1, "last_at": _counted.excluded.last_at},
    ),
    columns=("group_name", "code", "minute", "last_at"),
)


def gather(tx: Tx, ask: Ask, skill: Skill, limits: Limits, task: Task | None, *, task_read: bool) -> Facts:
    """The facts of a decision as this transaction sees them."""
    now = tx.now
    level = skill.levels.get(ask.action, Level.L0)
    seen = tx.one(_SEEN, group_name=ask.group, request_id=ask.request_id)
    keyed = None
    if ask.idempotency_key:
        keyed = tx.one(_KEYED, group_name=ask.group, idempotency_key=ask.idempotency_key)
    return Facts(
        ask=ask,
        skill=skill,
        now=now,
        seen=_as_recorded(seen),
        keyed=_as_recorded(keyed),
        usage=_usage(tx, ask.group, level, limits, now),
        capabilities=capabilities.live(tx, ask.group, ask.provider),
        task=task,
        task_read=task_read,
        limits=limits,
    )


def _as_recorded(row: sqlite3.Row | None) -> Recorded | None:
    return None if row is None else Recorded(row[0], State(row[1]), *row[2:])


def _usage(tx: Tx, group: str, level: Level, limits: Limits, now: str) -> Usage:
    counted = tx.one(_PENDING, group_name=group)
    pending = counted[0] if counted is not None else 0
    last = tx.one(_LAST_CLAIM, group_name=group, level=level.value) if level else None
    if last is None:
        return Usage(pending)
    # The claims are numbered, so the one that lies a whole rate ago is found at once, whatever the rate.
    number, of_day, at = last
    a_rate_ago = number - limits.rate_for(group, level) + 1
    edge = tx.one(_CLAIM, group_name=group, level=level.value, number=a_rate_ago) if a_rate_ago > 0 else None
    return Usage(
        pending=pending,
        claims=number,
        rate_edge=edge["created_at"] if edge is not None else "",
        today=of_day if at[:10] == now[:10] else 0,
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """What a new row of the ledger says besides the facts of its decision."""

    call_id: str
    kind: Kind | None
    params_summary: str
    principal: str
    via: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended. answer: the CallResponse that its caller gets, serialised."""

    state: State
    code: str
    reason: str
    result_summary: str
    answer: bytes
    duration_ms: int = 0

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
        }


def claim(tx: Tx, facts: Facts, capability_id: str, entry: Entry) -> None:
    """Writes an allowed call: PREPARED, or SENT for a pure one. Decide in the same transaction."""
    assert entry.kind is not None
    columns = _columns(tx, facts, entry) | {
        "state": first_state(entry.kind).value,
        "code": "",
        "reason": "",
        "result_summary": "",
        "answer_sha256": "",
        "capability_id": capability_id,
        "claim_number": 1 + facts.usage.claims,
        "claim_of_day": 1 + facts.usage.today,
        "duration_ms": 0,
    }
    _write(tx, facts.ask, entry, "claim", columns)


def deny(tx: Tx, facts: Facts, capability_id: str, entry: Entry, end: End) -> None:
    """Writes a refusal, with its answer."""
    columns = _columns(tx, facts, entry) | end.columns
    columns |= {"capability_id": capability_id, "claim_number": 0, "claim_of_day": 0}
    _write(tx, facts.ask, entry, "deny", columns)
    tx.run(_ANSWER, call_id=entry.call_id, answer=end.answer)


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
    }


def _write(tx: Tx, ask: Ask, entry: Entry, action: str, columns: dict[str, Any]) -> None:
    tx.run(_INSERT, call_id=entry.call_id, **columns)
    LOG.append(
        tx,
        action=action,
        principal=entry.principal,
        via=entry.via,
        attempt_id=ask.attempt,
        subject=entry.call_id,
        task_id=ask.task_id,
        to_state=columns["state"],
        reason=columns["code"],
        policy_version=POLICY_VERSION,
        request_ref=ask.request_id,
        trace_id=entry.trace_id,
        changes=[_image(entry.call_id, columns)],
    )


def _image(call_id: str, columns: dict[str, Any]) -> Change:
    return Change(calls.name, {"call_id": call_id}, columns)


def count_refusal(tx: Tx, group: str, code: str) -> None:
    """Counts a refusal that gets no row of its own."""
    tx.run(_COUNT, group_name=group, code=code, minute=tx.now[:16], last_at=tx.now)


def mark_sent(tx: Tx, call_id: str, trace_id: str) -> None:
    """From here on something may have left the machine."""
    columns = {"state": State.SENT.value, "updated_at": tx.now}
    if tx.run(_SENT, which=call_id, updated_at=tx.now) != 1:
        raise AssertionError(f"call {call_id} is not PREPARED")
    _log_step(tx, "send", call_id, State.PREPARED, columns, trace_id)


def settle(tx: Tx, call_id: str, was: State, end: End, trace_id: str, action: str = "settle") -> None:
    """Writes how it ended, with the answer that is given from now on."""
    columns = end.columns | {"updated_at": tx.now}
    if tx.run(_SETTLE, which=call_id, was=was.value, **columns) != 1:
        raise AssertionError(f"call {call_id} is not {was}")
    tx.run(_ANSWER, call_id=call_id, answer=end.answer)
    _log_step(tx, action, call_id, was, columns, trace_id)


def _log_step(tx: Tx, action: str, call_id: str, was: State, columns: dict[str, Any], trace_id: str) -> None:
    LOG.append(
        tx,
        action=action,
        principal=BROKER,
        subject=call_id,
        from_state=was.value,
        to_state=columns["state"],
        reason=columns.get("code", ""),
        policy_version=POLICY_VERSION,
        trace_id=trace_id,
        changes=[_image(call_id, columns)],
    )


def answer_of(tx: Tx, call_id: str) -> bytes | None:
    """The recorded answer; None while the call is under way."""
    row = tx.one(_FIND_ANSWER, which=call_id)
    return None if row is None else row["answer"]


def pending(tx: Tx) -> Sequence[sqlite3.Row]:
    """Every call that is under way, whole rows."""
    return tx.all(_FIND_PENDING)
