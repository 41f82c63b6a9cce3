"""What the ledger and the grants say about a call that is asked for: its facts, inside the transaction that decides."""

import sqlite3
from dataclasses import replace

from sqlalchemy import bindparam, func, select

from nanoclaw_broker import breakers, budgets, capabilities, freezes
from nanoclaw_broker.facts import Ask, Facts, Recorded, Skill, Task, Usage
from nanoclaw_broker.ledger import NEVER_SENT, PENDING, State
from nanoclaw_broker.policy import Lane, Level, Limits
from nanoclaw_broker.tables import calls
from nanoclaw_broker.vote import Ballot
from nanoclaw_store import Tx, prepare

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
        calls.c.code != NEVER_SENT,
    )
)
_is_pending = calls.c.state.in_(sorted(state.value for state in PENDING))
_in_lane = calls.c.lane == bindparam("lane")
_pending = select(func.count()).select_from(calls).where(_of_group, _in_lane, _is_pending)
_PENDING = prepare(_pending)
_PENDING_OF_ATTEMPT = prepare(_pending.where(calls.c.attempt_id == bindparam("attempt")))
_claims = select(calls.c.claim_number, calls.c.claim_of_day, calls.c.created_at).where(
    _of_group, calls.c.level == bindparam("level"), _in_lane, calls.c.claim_number > 0
)
_LAST_CLAIM = prepare(_claims.order_by(calls.c.claim_number.desc()).limit(1))
_CLAIM = prepare(_claims.where(calls.c.claim_number == bindparam("number")))


def gather_again(tx: Tx, ask: Ask, skill: Skill, limits: Limits, task: Task, ballot: Ballot) -> Facts:
    """The facts of a decision about a call that waits for votes: it was counted when it was asked for."""
    counted = tx.one(_PENDING, group_name=ask.group, lane=ask.lane.value)
    budget = budgets.of_call(tx, ask.group, skill.cost_micros, limits)
    return Facts(
        ask=ask,
        skill=skill,
        now=tx.now,
        budget=replace(budget, lines=()),  # what it may cost was set aside when it was asked for
        circuit=breakers.find(tx, skill.circuit),
        usage=Usage(counted[0] if counted is not None else 0),
        capabilities=capabilities.live(tx, ask.group, ask.provider),
        task=task,
        limits=limits,
        freezes=freezes.in_force(tx, ask.group, ask.provider),
        ballot=ballot,
    )


def gather(tx: Tx, ask: Ask, skill: Skill, limits: Limits, task: Task | None, *, task_read: bool) -> Facts:
    """The facts of a decision as this transaction sees them."""
    seen = tx.one(_SEEN, group_name=ask.group, request_id=ask.request_id)
    keyed = None
    if ask.idempotency_key:
        keyed = tx.one(_KEYED, group_name=ask.group, idempotency_key=ask.idempotency_key)
    facts = Facts(
        ask=ask,
        skill=skill,
        now=tx.now,
        seen=_as_recorded(seen),
        keyed=_as_recorded(keyed),
        capabilities=capabilities.live(tx, ask.group, ask.provider),
        task=task,
        task_read=task_read,
        limits=limits,
        freezes=freezes.in_force(tx, ask.group, ask.provider),
        budget=budgets.of_call(tx, ask.group, skill.cost_micros, limits),
        circuit=breakers.find(tx, skill.circuit),
    )
    return replace(facts, usage=_usage(tx, ask, facts.level, limits))


def _as_recorded(row: sqlite3.Row | None) -> Recorded | None:
    return None if row is None else Recorded(row[0], State(row[1]), *row[2:])


def _usage(tx: Tx, ask: Ask, level: Level, limits: Limits) -> Usage:
    group, lane = ask.group, ask.lane.value
    if ask.lane is Lane.RELAY:
        counted = tx.one(_PENDING_OF_ATTEMPT, group_name=group, lane=lane, attempt=ask.attempt)
    else:
        counted = tx.one(_PENDING, group_name=group, lane=lane)
    pending = counted[0] if counted is not None else 0
    last = tx.one(_LAST_CLAIM, group_name=group, level=level.value, lane=lane) if level else None
    if last is None:
        return Usage(pending)
    # The claims are numbered, so the one that lies a whole rate ago is found at once, whatever the rate.
    number, of_day, at = last
    a_rate_ago = number - limits.rate_for(group, level) + 1
    edge = None
    if a_rate_ago > 0:
        edge = tx.one(_CLAIM, group_name=group, level=level.value, lane=lane, number=a_rate_ago)
    return Usage(
        pending=pending,
        claims=number,
        rate_edge=edge["created_at"] if edge is not None else "",
        today=of_day if at[:10] == tx.now[:10] else 0,
    )
