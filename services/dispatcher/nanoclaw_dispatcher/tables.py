"""The dispatcher's slice: dispatches and their attempts, leases, notices, sessions, the place in governance's log."""

from pathlib import Path

from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Text

from nanoclaw_store import LogTable, Slice, UtcText, request_table

metadata = MetaData()


def _text(name: str, *, primary_key: bool = False, unique: bool = False) -> "Column[str]":
    return Column(name, Text, nullable=False, primary_key=primary_key, unique=unique)


def _number(name: str) -> "Column[int]":
    return Column(name, Integer, nullable=False)


def _moment(name: str) -> "Column[str]":
    return Column(name, UtcText, nullable=False)


dispatches = Table(
    "gov_dispatches",
    metadata,
    _text("id", primary_key=True),
    _text("dispatch_key", unique=True),
    _text("task_id"),
    _text("group_name"),
    _number("rule"),
    _text("from_state"),
    _text("to_state"),
    _number("task_version"),
    _number("seen_version"),
    _number("round"),
    _number("priority"),
    _text("because"),
    _text("state"),
    _text("code"),
    _text("reason"),
    _number("attempts"),
    _number("failures"),
    _text("not_before"),
    _text("cancelled_by"),
    _text("traceparent"),
    _moment("created_at"),
    _moment("updated_at"),
)
"""task_version: what it was cut for. seen_version: the latest of which is known what it meant for this dispatch.
to_state: empty where there is nothing to claim. because: what the agent is told of what went before. attempts,
failures: how many were made, and how many of them count against the limit. cancelled_by: who asked to cancel it."""

attempts = Table(
    "dispatch_attempts",
    metadata,
    Column("fence", Integer, primary_key=True),
    _text("id", unique=True),
    Column("dispatch_id", Text, ForeignKey("gov_dispatches.id"), nullable=False),
    _number("number"),
    _text("task_id"),
    _text("group_name"),
    _text("state"),
    Column("exit_code", Integer),
    _text("outcome"),
    _text("last_lines"),
    _text("mailbox"),
    _text("traceparent"),
    _moment("created_at"),
    _text("started_at"),
    _text("ended_at"),
)
"""fence: rises over all attempts, since no row is ever deleted."""

leases = Table("dispatch_leases", metadata, _text("dispatch_id", primary_key=True), _text("owner"), _moment("until"))
"""Which dispatcher drives an open dispatch. Not in the log: a lease is no fact, it lapses by itself."""

notices = Table("dispatch_notices", metadata, _text("task_id", primary_key=True), _text("notice"), _text("ref"))
"""The last notice given for a task, so that it is given once."""

sessions = Table(
    "dispatch_sessions", metadata, _text("group_name", primary_key=True), _text("session_id"), _text("attempt_id")
)
"""The session that a group's next agent resumes, and who reported it."""

cursors = Table(
    "dispatch_cursors", metadata, _text("name", primary_key=True), _number("epoch"), _number("seq"), _moment("saved_at")
)
"""How far governance's log was read. Not in the log: it may lag behind, reading again does no harm."""

LOG = LogTable("dispatch_activities", metadata)
requests = request_table("dispatch_requests", metadata)

SLICE = Slice(
    name="dispatcher",
    tables=frozenset(metadata.tables),
    migrations=Path(__file__).with_name("migrations"),
    log=LOG.name,
    folded={
        dispatches.name: ("id",),
        attempts.name: ("fence",),
        notices.name: ("task_id",),
        sessions.name: ("group_name",),
    },
)
