"""Budgets on disk: limits, and what is reserved and spent under them; functions that take a tx."""

import sqlite3

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.sqlite import insert as upsert

from nanoclaw_broker.budget import MICROS_PER_CENT, Budget, Line, Period
from nanoclaw_broker.deeds import BROKER, log_deed
from nanoclaw_broker.policy import Limits
from nanoclaw_broker.tables import budgets, overruns, spending
from nanoclaw_core.principal import Caller
from nanoclaw_store import Change, Tx, prepare

_LIMITS = prepare(select(budgets).where(budgets.c.group_name.in_((bindparam("group_name"), "")), budgets.c.is_set == 1))
_SPENDING = prepare(
    select(spending).where(
        spending.c.group_name.in_((bindparam("group_name"), "")), spending.c.day.in_((bindparam("day"), ""))
    )
)
_OVERRUN = prepare(select(overruns).where(overruns.c.group_name == bindparam("group_name"), overruns.c.active == 1))
_limit = upsert(budgets)
_SET = prepare(
    _limit.on_conflict_do_update(
        index_elements=["group_name", "period"],
        set_={name: _limit.excluded[name] for name in ("limit_cents", "is_set", "principal", "reason", "set_at")},
    )
)
_used = upsert(spending)
_ADD = prepare(
    _used.on_conflict_do_update(
        index_elements=["group_name", "day"],
        set_={
            "reserved_micros": spending.c.reserved_micros + _used.excluded.reserved_micros,
            "spent_micros": spending.c.spent_micros + _used.excluded.spent_micros,
        },
    )
)
_MOVE = prepare(
    spending.update()
    .where(spending.c.group_name.in_((bindparam("which"), "")), spending.c.day.in_((bindparam("on"), "")))
    .values(
        reserved_micros=spending.c.reserved_micros + bindparam("reserved"),
        spent_micros=spending.c.spent_micros + bindparam("spent"),
    )
)
_over = upsert(overruns)
_FREEZE = prepare(
    _over.on_conflict_do_update(
        index_elements=["group_name"],
        set_={name: _over.excluded[name] for name in ("call_id", "reason", "frozen_at", "active")},
    )
)
_SUMS = 4
"""A claim counts for its group and for all, on its day and for ever."""


def lines(tx: Tx, group: str, limits: Limits) -> tuple[Line, ...]:
    """The limits that a group meets: its own, then those of all groups together; `group` empty: those alone."""
    set_ = {(row["group_name"], Period(row["period"])): row["limit_cents"] for row in tx.all(_LIMITS, group_name=group)}
    given = {(group, Period.STEP): limits.step_cents, (group, Period.DAY): limits.day_cents} if group else {}
    used = {
        (row["group_name"], row["day"]): (row["reserved_micros"], row["spent_micros"])
        for row in tx.all(_SPENDING, group_name=group, day=tx.now[:10])
    }
    days = {Period.DAY: tx.now[:10], Period.TOTAL: ""}
    return tuple(
        Line(
            who,
            period,
            set_.get((who, period), given.get((who, period), 0)),
            *used.get((who, days.get(period, "no day")), (0, 0)),
            is_default=(who, period) not in set_,
        )
        for who in dict.fromkeys((group, ""))
        for period in Period
        if (who, period) in set_ or (who, period) in given
    )


def frozen(tx: Tx, group: str) -> sqlite3.Row | None:
    """The overrun for which a group's spending is frozen."""
    return tx.one(_OVERRUN, group_name=group)


def of_call(tx: Tx, group: str, worst_micros: int, limits: Limits) -> Budget:
    """What a decision about a call needs; nothing is read for one that costs nothing."""
    if worst_micros == 0:
        return Budget()
    row = frozen(tx, group)
    return Budget(worst_micros, lines(tx, group, limits), row["reason"] if row is not None else "")


def reserve(tx: Tx, group: str, micros: int) -> None:
    """Sets the worst case of a claim aside, in the transaction that decided."""
    _add(tx, group, tx.now[:10], micros, 0)


def settle(tx: Tx, call_id: str, group: str, claimed_at: str, reserved: int, spent: int) -> None:
    """A claim has ended: its reservation goes, what it cost is spent. More than was reserved freezes the group."""
    if reserved == spent == 0:
        return
    _move(tx, group, claimed_at, -reserved, spent)
    if spent > reserved:
        _freeze(tx, call_id, group, reserved, spent)


def refund(tx: Tx, group: str, claimed_at: str, spent: int) -> None:
    """What was spent on a call that turned out not to have happened."""
    if spent:
        _move(tx, group, claimed_at, 0, -spent)


def _move(tx: Tx, group: str, claimed_at: str, reserved: int, spent: int) -> None:
    if tx.run(_MOVE, which=group, on=claimed_at[:10], reserved=reserved, spent=spent) == _SUMS:
        return
    if reserved or spent < 0:
        raise AssertionError(f"the sums of {group} for {claimed_at[:10]} are not there")
    _add(tx, group, claimed_at[:10], 0, spent)  # what was to cost nothing has cost something


def _add(tx: Tx, group: str, day: str, reserved: int, spent: int) -> None:
    for who in (group, ""):
        for when in (day, ""):
            tx.run(_ADD, group_name=who, day=when, reserved_micros=reserved, spent_micros=spent)


def _freeze(tx: Tx, call_id: str, group: str, reserved: int, spent: int) -> None:
    columns = {
        "call_id": call_id,
        "reason": f"a call cost {_cents(spent)} cents, {_cents(reserved)} were reserved for it",
        "frozen_at": tx.now,
        "active": 1,
    }
    tx.run(_FREEZE, group_name=group, **columns)
    change = Change(overruns.name, {"group_name": group}, columns)
    log_deed(tx, BROKER, "overrun", change, subject=call_id, reason=str(columns["reason"]))


def _cents(micros: int) -> str:
    return f"{micros / MICROS_PER_CENT:.2f}"


def set_limit(
    tx: Tx, group: str, period: Period, cents: int | None, by: Caller, *, reason: str, request_id: str, trace_id: str
) -> None:
    """Sets a limit; None: back to the default."""
    columns = {
        "limit_cents": cents or 0,
        "is_set": int(cents is not None),
        "principal": by.principal,
        "reason": reason,
        "set_at": tx.now,
    }
    tx.run(_SET, group_name=group, period=period.value, **columns)
    change = Change(budgets.name, {"group_name": group, "period": period.value}, columns)
    log_deed(tx, by, "set_budget", change, request_id=request_id, trace_id=trace_id, reason=reason)


def resume(tx: Tx, row: sqlite3.Row, by: Caller, *, reason: str, request_id: str, trace_id: str) -> None:
    """Lets a group spend again."""
    columns = {"call_id": row["call_id"], "reason": row["reason"], "frozen_at": row["frozen_at"], "active": 0}
    tx.run(_FREEZE, group_name=row["group_name"], **columns)
    change = Change(overruns.name, {"group_name": row["group_name"]}, {"active": 0})
    log_deed(tx, by, "resume_spending", change, request_id=request_id, trace_id=trace_id, reason=reason)
