"""The gateway's slice of the database: mailboxes, what was taken in from them, messages, and the log of it all."""

from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, Table, Text

from nanoclaw_store import LogTable, Slice, UtcText, request_table

METADATA = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _moment(name: str) -> Column[str]:
    return Column(name, UtcText, nullable=False)


mailboxes = Table(
    "ipc_mailboxes",
    METADATA,
    Column("number", Integer, primary_key=True),
    _text("attempt_id"),
    _text("group_name"),
    _text("task_id"),
    Column("fence", Integer, nullable=False),
    _text("traceparent"),
    _text("state"),
    _moment("opened_at"),
    _text("closed_at"),
)
"""One row for each mailbox there ever was. attempt_id is empty for a group's standing one, closed_at while OPEN."""

requests = Table(
    "ipc_requests",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("mailbox", Integer, nullable=False),
    _text("group_name"),
    _text("attempt_id"),
    _text("source"),
    _text("file_name"),
    _text("type"),
    _text("request_id"),
    _text("digest"),
    Column("size_bytes", Integer, nullable=False),
    _text("state"),
    _text("status"),
    _text("code"),
    _text("message"),
    _moment("created_at"),
)
"""One row for each file that was taken in and decided.

id: the ULID under which it was claimed. source: tasks, messages or submit. digest: SHA-256 of the content, hex; empty
where it was not read. state: ANSWERED; QUARANTINED (the file is kept in ipc/errors), RETRYING (it is being taken in
again), DROPPED (it is not kept any more, or never was). status, code, message: of the answer.
"""

answers = Table(
    "ipc_answers",
    METADATA,
    Column("id", Text, primary_key=True),
    _text("name"),
    _text("answer"),
    _moment("created_at"),
)
"""What was answered, kept as long as response files are; no part of the truth that the log tells."""

messages = Table(
    "ipc_messages",
    METADATA,
    Column("seq", Integer, primary_key=True),
    _text("id"),
    Column("mailbox", Integer, nullable=False),
    _text("group_name"),
    _text("attempt_id"),
    _text("task_id"),
    _text("sender"),
    _text("text"),
    _moment("created_at"),
    _text("replied_by"),
    _text("in_reply_to"),
)

LOG = LogTable("ipc_activities", METADATA)
rpc_requests = request_table("ipc_rpc_requests", METADATA)

SLICE = Slice(
    name="gateway",
    tables=frozenset(METADATA.tables),
    migrations=Path(__file__).parent / "migrations",
    log=LOG.name,
    folded={"ipc_mailboxes": ("number",), "ipc_requests": ("id",), "ipc_messages": ("seq",)},
)
