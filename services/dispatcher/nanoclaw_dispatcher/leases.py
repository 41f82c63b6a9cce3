"""Leases: which dispatcher drives which open dispatch, and until when another one keeps its hands off."""

import sqlite3
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import bindparam, delete, insert, select, update

from nanoclaw_core.clock import from_text, to_text
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import dispatches, tables
from nanoclaw_store import Tx, prepare

_L = tables.leases.c
_D = tables.dispatches.c

INSERT = prepare(insert(tables.leases))
OF_DISPATCH = prepare(select(_L.owner, _L.until).where(_L.dispatch_id == bindparam("dispatch")))
OF_OWNER = prepare(select(_L.dispatch_id).where(_L.owner == bindparam("owner")))
RENEW = prepare(update(tables.leases).where(_L.owner == bindparam("me")).values(until=bindparam("new_until")))
DROP = prepare(delete(tables.leases).where(_L.dispatch_id == bindparam("dispatch")))
DROP_ALL = prepare(delete(tables.leases).where(_L.owner == bindparam("me")))
OPEN_OF_OTHERS = prepare(
    select(tables.dispatches, _L.owner, _L.until)
    .select_from(tables.dispatches.outerjoin(tables.leases, _L.dispatch_id == _D.id))
    .where(_D.state.in_(("ENQUEUED", "STARTED")))
    .order_by(_D.id)
)

Alive = Callable[[str], bool]
"""Whether the dispatcher of that instance id may still be running; True where that is not known."""


class LeaseLost(NanoclawError):
    """Another dispatcher drives the dispatch now; whoever meets this lets go of it."""


def take(tx: Tx, dispatch_id: str, *, owner: str, seconds: float) -> None:
    """Makes `owner` drive it; whoever did before is replaced."""
    tx.run(DROP, dispatch=dispatch_id)
    tx.run(INSERT, dispatch_id=dispatch_id, owner=owner, until=later(tx.now, seconds))


def hold(tx: Tx, dispatch_id: str, owner: str) -> None:
    """Raises LeaseLost unless `owner` drives it. A lapsed lease that nobody took is still its owner's."""
    row = tx.one(OF_DISPATCH, dispatch=dispatch_id)
    if row is None or row["owner"] != owner:
        raise LeaseLost(Kind.CONFLICT, "LEASE_LOST", f"dispatch {dispatch_id} is driven by another dispatcher")


def release(tx: Tx, dispatch_id: str) -> None:
    """Nobody drives it: it is closed."""
    tx.run(DROP, dispatch=dispatch_id)


def renew(tx: Tx, owner: str, seconds: float) -> frozenset[str]:
    """Renews all leases of the owner and answers which dispatches those are."""
    tx.run(RENEW, me=owner, new_until=later(tx.now, seconds))
    return frozenset(row[0] for row in tx.all(OF_OWNER, owner=owner))


def adoptable(tx: Tx, owner: str, alive: Alive) -> list[sqlite3.Row]:
    """Open dispatches that nobody drives any more: no lease, a lapsed one, or one of a dispatcher that is dead."""
    return [
        row
        for row in tx.all(OPEN_OF_OTHERS)
        if row["owner"] != owner and (row["owner"] is None or row["until"] < tx.now or not alive(row["owner"]))
    ]


def adopt(tx: Tx, owner: str, seconds: float, alive: Alive) -> list[str]:
    """Takes every dispatch that can be adopted, with a log row each, and answers their ids."""
    adopted = []
    for row in adoptable(tx, owner, alive):
        take(tx, row["id"], owner=owner, seconds=seconds)
        dispatches.log_adoption(tx, row, instance=owner, before=row["owner"] or "")
        adopted.append(str(row["id"]))
    return adopted


def release_all(tx: Tx, owner: str) -> None:
    """The owner drives nothing any more: it stops."""
    tx.run(DROP_ALL, me=owner)


def later(now: str, seconds: float) -> str:
    """A TEXT time so many seconds on."""
    return to_text(from_text(now) + timedelta(seconds=seconds))
