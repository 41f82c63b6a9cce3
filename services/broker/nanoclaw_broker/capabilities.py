"""Capabilities on disk: functions that take a tx. Read anew for every call: a revoke or expiry is in force at once."""

import json
import sqlite3
from typing import Any

from sqlalchemy import and_, bindparam, case, func, insert, or_, select, tuple_, update

from nanoclaw_broker import freezes
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.deeds import log_deed
from nanoclaw_broker.policy import Level
from nanoclaw_broker.tables import capabilities
from nanoclaw_core.principal import Caller
from nanoclaw_store import Change, Tx, prepare

_c = capabilities.c
_is_live = _c.active == 1
_LIVE = prepare(
    select(
        _c.group_name,
        _c.provider,
        _c.access_level,
        _c.allowed_actions,
        _c.denied_actions,
        _c.requires_task_gate,
        _c.product_id,
        _c.expires_at,
        _c.id,
        _c.allow_unverified,
        _c.changes,
    ).where(_c.group_name == bindparam("group_name"), _c.provider == bindparam("provider"), _is_live)
)
_FIND = prepare(
    select(capabilities).where(
        _c.group_name == bindparam("group_name"),
        _c.provider == bindparam("provider"),
        _c.product_id == bindparam("product_id"),
    )
)
_INSERT = prepare(insert(capabilities))
_CHANGING = tuple(
    column.name for column in _c if column.name not in ("id", "group_name", "provider", "product_id", "changes")
)
_RENEW = prepare(
    update(capabilities)
    .where(_c.id == bindparam("which"))
    .values({name: bindparam(name) for name in (*_CHANGING, "changes")})
)
_REVOKE = prepare(
    update(capabilities).where(_c.id == bindparam("which")).values(active=0, changes=bindparam("changes"))
)
_expired = and_(_c.expires_at != "", _c.expires_at <= bindparam("now"))
_REVISION = prepare(select(func.coalesce(func.sum(2 * _c.changes + case((_expired, 1), else_=0)), 0)))
_NEXT_END = prepare(select(func.min(_c.expires_at)).where(_is_live, _c.expires_at > bindparam("now")))
_any_group = or_(bindparam("group_name") == "", _c.group_name == bindparam("group_name"))
_LIST = prepare(
    select(capabilities)
    .where(
        _any_group,
        or_(bindparam("inactive") == 1, and_(_is_live, or_(_c.expires_at == "", _c.expires_at > bindparam("now")))),
        tuple_(_c.group_name, _c.provider, _c.product_id)
        > tuple_(bindparam("after_group"), bindparam("after_provider"), bindparam("after_product")),
    )
    .order_by(_c.group_name, _c.provider, _c.product_id)
    .limit(bindparam("most"))
)


def live(tx: Tx, group: str, provider: str) -> tuple[Capability, ...]:
    """The group's grants for a provider that are not revoked; they may have expired."""
    return tuple(as_capability(row) for row in tx.all(_LIVE, group_name=group, provider=provider))


def as_capability(row: sqlite3.Row) -> Capability:
    """The rule's view of a row."""
    return Capability(
        group=row["group_name"],
        provider=row["provider"],
        level=Level(row["access_level"]),
        allowed=_names(row["allowed_actions"]),
        denied=_names(row["denied_actions"]),
        requires_task_gate=row["requires_task_gate"],
        product_id=row["product_id"],
        expires_at=row["expires_at"],
        id=row["id"],
        allow_unverified=bool(row["allow_unverified"]),
        changes=row["changes"],
    )


def _names(text: str) -> tuple[str, ...]:
    return () if text == "[]" else tuple(json.loads(text))


def find(tx: Tx, group: str, provider: str, product_id: str) -> sqlite3.Row | None:
    """The grant's row, revoked or not."""
    return tx.one(_FIND, group_name=group, provider=provider, product_id=product_id)


def grant(tx: Tx, wanted: Capability, new_id: str, by: Caller, *, request_id: str, trace_id: str) -> sqlite3.Row:
    """Writes a grant; one for the same group, provider and product takes the place of the earlier one."""
    columns = {
        "access_level": wanted.level.value,
        "allowed_actions": json.dumps(wanted.allowed),
        "denied_actions": json.dumps(wanted.denied),
        "requires_task_gate": wanted.requires_task_gate,
        "granted_by": by.principal,
        "granted_at": tx.now,
        "expires_at": wanted.expires_at,
        "active": 1,
        "allow_unverified": int(wanted.allow_unverified),
    }
    there = find(tx, wanted.group, wanted.provider, wanted.product_id)
    if there is None:
        id_ = new_id
        columns |= {"group_name": wanted.group, "provider": wanted.provider, "product_id": wanted.product_id}
        columns["changes"] = 1
        tx.run(_INSERT, id=id_, **columns)
    else:
        id_ = there["id"]
        columns["changes"] = there["changes"] + 1
        tx.run(_RENEW, which=id_, **columns)
    _log(tx, "grant" if there is None else "renew", id_, columns, by, request_id, trace_id)
    row = find(tx, wanted.group, wanted.provider, wanted.product_id)
    assert row is not None
    return row


def revoke(tx: Tx, row: sqlite3.Row, by: Caller, *, reason: str, request_id: str, trace_id: str) -> sqlite3.Row:
    """Ends a grant that is active."""
    columns = {"active": 0, "changes": row["changes"] + 1}
    tx.run(_REVOKE, which=row["id"], changes=columns["changes"])
    _log(tx, "revoke", row["id"], columns, by, request_id, trace_id, reason)
    ended = find(tx, row["group_name"], row["provider"], row["product_id"])
    assert ended is not None
    return ended


def _log(
    tx: Tx, action: str, id_: str, columns: dict[str, Any], by: Caller, request_id: str, trace_id: str, reason: str = ""
) -> None:
    change = Change(capabilities.name, {"id": id_}, columns)
    log_deed(tx, by, action, change, request_id=request_id, trace_id=trace_id, subject=id_, reason=reason)


def page(tx: Tx, group: str, after: tuple[str, str, str], most: int, *, include_inactive: bool) -> list[sqlite3.Row]:
    """Grants in the order of group, provider and product; `group` empty: of all."""
    return tx.all(
        _LIST,
        group_name=group,
        inactive=int(include_inactive),
        now=tx.now,
        after_group=after[0],
        after_provider=after[1],
        after_product=after[2],
        most=most,
    )


def revision(tx: Tx) -> int:
    """A number that rises with every grant, renewal, revoke and expiry, and every freeze, also across restarts.

    A change counts two and an expiry one, so that a renewal, which undoes an expiry, still rises.
    """
    row = tx.one(_REVISION, now=tx.now)
    return (0 if row is None else int(row[0])) + freezes.changes(tx)


def next_end(tx: Tx) -> str:
    """When the next live grant expires; empty where none does."""
    row = tx.one(_NEXT_END, now=tx.now)
    return "" if row is None or row[0] is None else str(row[0])
