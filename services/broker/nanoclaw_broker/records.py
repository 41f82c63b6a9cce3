"""Reading the effect ledger: one call, pages of them, and how many there are in each state."""

import sqlite3
from collections.abc import Sequence

from sqlalchemy import Select, bindparam, func, or_, select

from nanoclaw_broker.ledger import State
from nanoclaw_broker.tables import calls
from nanoclaw_store import Statement, Tx, prepare

_BY_ID = prepare(select(calls).where(calls.c.call_id == bindparam("which")))
_BY_REQUEST = prepare(
    select(calls).where(calls.c.group_name == bindparam("group_name"), calls.c.request_id == bindparam("request_id"))
)
_COUNTS = prepare(select(calls.c.state, func.count().label("count")).group_by(calls.c.state))

LISTED = "list them with ListCalls, or `nanoclaw calls`"
"""Where the ids of calls are found."""
FILTERS = ("group_name", "provider", "task_id", "states")


def _page(filters: tuple[str, ...]) -> Statement:
    """The page under these filters. One statement for each set of them, so that each finds its index."""
    query: Select[tuple[object, ...]] = select(calls).where(calls.c.call_id < bindparam("before"))
    for name in filters:
        if name == "states":
            query = query.where(func.instr(bindparam("states"), " " + calls.c.state + " ") > 0)
        else:
            query = query.where(calls.c[name] == bindparam(name))
    if "task_id" in filters:
        query = query.where(calls.c.task_id != "")  # lets the partial index serve
    return prepare(query.order_by(calls.c.call_id.desc()).limit(bindparam("most")))


_PAGES = {
    chosen: _page(chosen)
    for mask in range(2 ** len(FILTERS))
    for chosen in [tuple(name for bit, name in enumerate(FILTERS) if mask >> bit & 1)]
}


_UNKNOWN = prepare(
    select(calls)
    .where(
        calls.c.state == State.UNKNOWN.value,
        calls.c.call_id > bindparam("after"),
        *(or_(bindparam(name) == "", calls.c[name] == bindparam(name)) for name in FILTERS[:3]),
    )
    .order_by(calls.c.call_id)
    .limit(bindparam("most"))
)


def by_id(tx: Tx, call_id: str) -> sqlite3.Row | None:
    """A call's row."""
    return tx.one(_BY_ID, which=call_id)


def by_request(tx: Tx, group: str, request_id: str) -> sqlite3.Row | None:
    """The row of a group's request."""
    return tx.one(_BY_REQUEST, group_name=group, request_id=request_id)


def page(
    tx: Tx,
    before: str,
    most: int,
    *,
    group: str = "",
    provider: str = "",
    task_id: str = "",
    states: Sequence[State] = (),
) -> list[sqlite3.Row]:
    """Calls with ids below `before` (empty: the newest), newest first, where every filter given holds."""
    wanted = f" {' '.join(state.value for state in states)} " if states else ""
    given = {"group_name": group, "provider": provider, "task_id": task_id, "states": wanted}
    given = {name: value for name, value in given.items() if value}
    return tx.all(_PAGES[tuple(given)], before=before or "~", most=most, **given)


def page_unknown(
    tx: Tx, after: str, most: int, *, group: str = "", provider: str = "", task_id: str = ""
) -> list[sqlite3.Row]:
    """Calls in UNKNOWN, oldest first, where every filter given holds."""
    return tx.all(_UNKNOWN, after=after, most=most, group_name=group, provider=provider, task_id=task_id)


def counts(tx: Tx) -> dict[State, int]:
    """How many calls are in each state; looks at every row."""
    return {State(row["state"]): row["count"] for row in tx.all(_COUNTS)}
