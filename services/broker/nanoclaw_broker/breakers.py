"""Circuit breakers on disk; functions that take a tx. A circuit without a row is closed and has not failed lately."""

import json
import sqlite3
from collections.abc import Callable

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.sqlite import insert as upsert

from nanoclaw_broker.breaker import Circuit
from nanoclaw_broker.tables import breakers
from nanoclaw_store import Tx, prepare

_FIND = prepare(select(breakers).where(breakers.c.circuit == bindparam("which")))
_NOT_CLOSED = prepare(select(breakers).where(breakers.c.opened_at != "").order_by(breakers.c.circuit))
_row = upsert(breakers)
_WRITE = prepare(
    _row.on_conflict_do_update(
        index_elements=["circuit"],
        set_={name: _row.excluded[name] for name in ("failures", "opened_at", "probe_call_id")},
    )
)


def find(tx: Tx, name: str) -> Circuit:
    """The circuit of that name; empty stands for what has no breaker."""
    row = tx.one(_FIND, which=name) if name else None
    return Circuit(name) if row is None else _circuit(row)


def not_closed(tx: Tx) -> list[Circuit]:
    """Those that are open or half-open."""
    return [_circuit(row) for row in tx.all(_NOT_CLOSED)]


def change(tx: Tx, name: str, becomes: Callable[[Circuit], Circuit]) -> None:
    """Writes what becomes of a circuit, if that is another one."""
    if not name:
        return
    was = find(tx, name)
    now = becomes(was)
    if now != was:
        tx.run(
            _WRITE,
            circuit=name,
            failures=json.dumps(now.failures),
            opened_at=now.opened_at,
            probe_call_id=now.probe_call_id,
        )


def _circuit(row: sqlite3.Row) -> Circuit:
    return Circuit(row["circuit"], tuple(json.loads(row["failures"])), row["opened_at"], row["probe_call_id"])
