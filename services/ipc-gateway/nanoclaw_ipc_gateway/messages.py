"""Messages on disk: from agents to the operator, and replies."""

import sqlite3
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, insert, select

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import not_found
from nanoclaw_ipc_gateway.mailbox import Origin
from nanoclaw_ipc_gateway.tables import messages
from nanoclaw_rpc import times
from nanoclaw_store import Change, Tx, prepare

_c = messages.c
_INSERT = prepare(insert(messages))
_HEAD = prepare(select(func.coalesce(func.max(_c.seq), 0)))
_BY_ID = prepare(select(messages).where(_c.id == bindparam("which")))
_AFTER = prepare(select(messages).where(_c.seq > bindparam("after")).order_by(_c.seq).limit(bindparam("most")))
_PAGE = prepare(
    select(messages)
    .where(
        _c.seq > bindparam("after"),
        (_c.group_name == bindparam("group")) | (bindparam("group") == ""),
        (_c.task_id == bindparam("task")) | (bindparam("task") == ""),
    )
    .order_by(_c.seq)
    .limit(bindparam("most"))
)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be kept. sender: as claimed. replied_by, in_reply_to: set in a reply."""

    id: str
    origin: Origin
    text: str
    sender: str = ""
    replied_by: str = ""
    in_reply_to: str = ""


def add(tx: Tx, message: NewMessage) -> list[Change]:
    """Writes the message, unless it was before; answers what the log must hold about it."""
    if known(tx, message.id) is not None:
        return []
    seq = head(tx) + 1
    values: dict[str, Any] = {
        "id": message.id,
        "mailbox": message.origin.number,
        "group_name": message.origin.group,
        "attempt_id": message.origin.attempt_id,
        "task_id": message.origin.task_id,
        "sender": message.sender,
        "text": message.text,
        "created_at": tx.now,
        "replied_by": message.replied_by,
        "in_reply_to": message.in_reply_to,
    }
    tx.run(_INSERT, seq=seq, **values)
    return [Change("ipc_messages", {"seq": seq}, values)]


def known(tx: Tx, message_id: str) -> sqlite3.Row | None:
    """A message, or None."""
    return tx.one(_BY_ID, which=message_id)


def find(tx: Tx, message_id: str) -> sqlite3.Row:
    """A message. Raises MESSAGE_NOT_FOUND."""
    row = known(tx, message_id)
    if row is None:
        raise not_found("message", message_id, "message_id", "list them with ListMessages, or `nanoclaw messages`")
    return row


def head(tx: Tx) -> int:
    """The last seq; 0 while there is none."""
    row = tx.one(_HEAD)
    return int(row[0]) if row else 0


def after(tx: Tx, seq: int, most: int) -> list[sqlite3.Row]:
    """Messages past a seq, oldest first."""
    return tx.all(_AFTER, after=seq, most=most)


def page(tx: Tx, after_seq: int, group: str, task_id: str, most: int) -> list[sqlite3.Row]:
    """Messages past a seq of a group and a task; empty for all."""
    return tx.all(_PAGE, after=after_seq, group=group, task=task_id, most=most)


def to_proto(row: sqlite3.Row) -> gateway.Message:
    """As the API shows it."""
    return gateway.Message(
        seq=row["seq"],
        id=row["id"],
        group=row["group_name"],
        attempt_id=row["attempt_id"],
        task_id=row["task_id"],
        sender=row["sender"],
        text=row["text"],
        created_at=times.to_timestamp(row["created_at"]),
        replied_by=row["replied_by"],
        in_reply_to=row["in_reply_to"],
    )
