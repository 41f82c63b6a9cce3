"""The broker's slice of the database: SQLAlchemy Core tables; their SQL with its checks is in migrations/."""

from pathlib import Path

from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, Text

from nanoclaw_store import LogTable, Slice, UtcText, request_table

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _moment(name: str) -> Column[str]:
    return Column(name, UtcText, nullable=False)


capabilities = Table(
    "ext_capabilities",
    metadata,
    Column("id", Text, primary_key=True),
    _text("group_name"),
    _text("provider"),
    _text("product_id"),  # empty: company-wide
    _number("access_level"),
    _text("allowed_actions"),  # JSON list
    _text("denied_actions"),  # JSON list
    _text("requires_task_gate"),
    _text("granted_by"),
    _moment("granted_at"),
    _moment("expires_at"),  # empty: never
    _number("active"),
    _number("changes"),  # rises with every grant and revoke
    _number("allow_unverified"),
)

calls = Table(
    "ext_calls",
    metadata,
    Column("call_id", Text, primary_key=True),
    _text("request_id"),
    _text("group_name"),
    _text("attempt_id"),
    _text("provider"),
    _text("action"),
    _text("kind"),  # pure, read, mutating; empty where the action is not known
    _number("level"),
    _text("state"),
    _text("code"),  # empty while it is under way
    _text("reason"),
    _text("params_hmac"),
    _text("params_summary"),
    _text("result_summary"),
    _text("answer_sha256"),  # of the answer in ext_answers; empty while it is under way
    _text("task_id"),
    _text("product_id"),
    _text("scope"),
    _text("capability_id"),
    _text("idempotency_key"),
    _text("policy_version"),
    _text("trace_id"),
    _number("claim_number"),  # the group's n-th claim at this level; 0: none
    _number("claim_of_day"),  # and which one of its day (UTC)
    _number("duration_ms"),
    _moment("created_at"),
    _moment("updated_at"),
    _text("unknown_ends_by"),  # empty where nothing is changed
    _number("cost_micros"),  # reserved while it is under way, spent afterwards
    _text("circuit"),  # whose breaker it counts for; empty: none
    _text("lane"),  # empty, or relay; claims are numbered in each
)

answers = Table(
    "ext_answers",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("given", Text, primary_key=True),  # end, settlement
    Column("answer", LargeBinary, nullable=False),  # CallResponse
)

params = Table(
    "ext_params",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("ciphertext", LargeBinary, nullable=False),
)

pending = Table(
    "ext_pending",
    metadata,
    Column("call_id", Text, primary_key=True),
    _text("params_digest"),
    _number("task_version"),
    _number("capability_changes"),
    _moment("expires_at"),
)

votes = Table(
    "ext_votes",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("principal", Text, primary_key=True),
    _text("party"),  # the group, or the operator itself
    _number("approve"),
    _text("params_digest"),
    _text("notes"),
    _text("via"),
    _text("attempt_id"),
    _moment("voted_at"),
)

freezes = Table(
    "ext_freezes",
    metadata,
    Column("scope", Text, primary_key=True),  # all, group, provider
    Column("name", Text, primary_key=True),
    _number("max_level"),
    _text("reason"),
    _text("principal"),
    _moment("frozen_at"),
    _number("active"),
    _number("changes"),  # rises with every freeze and unfreeze
)

settlements = Table(
    "ext_settlements",
    metadata,
    Column("call_id", Text, primary_key=True),
    _text("outcome"),
    _text("principal"),
    _text("note"),
    _text("answer_sha256"),
    _moment("settled_at"),
)

relays = Table(
    "ext_relays",
    metadata,
    Column("attempt_id", Text, primary_key=True),
    _text("group_name"),
    _text("task_id"),
    _text("traceparent"),
    _text("state"),  # OPEN, CLOSED
    _moment("opened_at"),
    _moment("closed_at"),  # empty while it is open
)

refusals = Table(
    "ext_refusals",
    metadata,
    Column("group_name", Text, primary_key=True),
    Column("code", Text, primary_key=True),
    Column("minute", Text, primary_key=True),  # YYYY-MM-DDTHH:MM
    _number("count"),
    _moment("last_at"),
)

budgets = Table(
    "ext_budgets",
    metadata,
    Column("group_name", Text, primary_key=True),  # empty: all groups together
    Column("period", Text, primary_key=True),  # step, day, total
    _number("limit_cents"),
    _number("is_set"),  # 0: back to the default
    _text("principal"),
    _text("reason"),
    _moment("set_at"),
)

spending = Table(
    "ext_spending",
    metadata,
    Column("group_name", Text, primary_key=True),  # empty: all groups together
    Column("day", Text, primary_key=True),  # YYYY-MM-DD; empty: for ever
    _number("reserved_micros"),
    _number("spent_micros"),
)

overruns = Table(
    "ext_overruns",
    metadata,
    Column("group_name", Text, primary_key=True),
    _text("call_id"),
    _text("reason"),
    _moment("frozen_at"),
    _number("active"),
)

breakers = Table(
    "ext_breakers",
    metadata,
    Column("circuit", Text, primary_key=True),
    _text("failures"),  # JSON list of times
    _moment("opened_at"),  # empty: closed
    _text("probe_call_id"),
)

LOG = LogTable("ext_activities", metadata)
REQUESTS = request_table("ext_requests", metadata)

SLICE = Slice(
    name="broker",
    tables=frozenset(metadata.tables),
    migrations=Path(__file__).parent / "migrations",
    log=LOG.name,
    folded={
        "ext_capabilities": ("id",),
        "ext_calls": ("call_id",),
        "ext_pending": ("call_id",),
        "ext_votes": ("call_id", "principal"),
        "ext_freezes": ("scope", "name"),
        "ext_settlements": ("call_id",),
        "ext_budgets": ("group_name", "period"),
        "ext_overruns": ("group_name",),
        "ext_relays": ("attempt_id",),
    },
)
"""Answers are not folded, they are too large for the log: `answer_sha256` ties them to it. Nor are refusals and
breakers, which are counts, nor spending, which is a sum over the calls, nor parameters, which are deleted."""
