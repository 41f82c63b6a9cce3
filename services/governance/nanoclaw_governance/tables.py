"""The kernel's tables as SQLAlchemy Core sees them; migrations/ makes them, and a test holds the two together."""

from pathlib import Path

from sqlalchemy import Column, Index, Integer, MetaData, Table, Text, text

from nanoclaw_store import LogTable, Slice, UtcText, request_table

METADATA = MetaData()


def _text(name: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=False)


def _integer(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


PRODUCTS = Table(
    "products",
    METADATA,
    _text("id", key=True),
    Column("name", Text, nullable=False, unique=True),
    _text("description"),
    _text("status"),
    _text("risk"),
    _integer("version"),
    Column("created_at", UtcText, nullable=False),
    Column("updated_at", UtcText, nullable=False),
)

TASKS = Table(
    "gov_tasks",
    METADATA,
    _text("id", key=True),
    _text("title"),
    _text("description"),
    _text("task_type"),
    _text("state"),
    _text("priority"),
    _text("product_id"),
    _text("scope"),
    _text("assigned_group"),
    _text("executor"),
    _text("gate"),
    _integer("human_gate"),
    _text("risk"),
    _integer("version"),
    _integer("round"),
    _integer("rework_count"),
    _text("previous_state"),
    _text("state_reason"),
    _text("review_summary"),
    _text("checklist"),
    Column("evidence_required", Integer),
    _integer("docs_updated"),
    _text("evidence"),
    _text("blocked_from"),
    _text("blocked_by"),
    _text("override"),
    _text("executors"),
    _text("metadata"),
    _text("traceparent"),
    _text("policy_version"),
    _text("created_by"),
    Column("created_at", UtcText, nullable=False),
    Column("updated_at", UtcText, nullable=False),
)
Index("gov_tasks_by_state", TASKS.c.state, TASKS.c.updated_at, TASKS.c.id)
Index(
    "gov_tasks_by_group",
    TASKS.c.assigned_group,
    TASKS.c.state,
    TASKS.c.updated_at,
    TASKS.c.id,
    sqlite_where=text("assigned_group <> ''"),
)
Index(
    "gov_tasks_by_product",
    TASKS.c.product_id,
    TASKS.c.updated_at,
    TASKS.c.id,
    sqlite_where=text("product_id <> ''"),
)
Index("gov_tasks_by_gate", TASKS.c.gate, TASKS.c.updated_at, TASKS.c.id, sqlite_where=text("gate <> 'NONE'"))

APPROVALS = Table(
    "gov_approvals",
    METADATA,
    _text("id", key=True),
    _text("task_id"),
    _text("gate"),
    _text("approved_by"),
    _text("notes"),
    _integer("round"),
    _integer("task_version"),
    _text("digest"),
    Column("created_at", UtcText, nullable=False),
    _text("voided_at"),
    _text("void_reason"),
)
Index("gov_approvals_live", APPROVALS.c.task_id, APPROVALS.c.gate, unique=True, sqlite_where=text("voided_at = ''"))
Index("gov_approvals_by_task", APPROVALS.c.task_id, APPROVALS.c.id)

ATTEMPTS = Table(
    "gov_attempts",
    METADATA,
    _text("task_id", key=True),
    _text("group_name", key=True),
    _text("attempt_id"),
    _integer("fence"),
)

LOG = LogTable("gov_activities", METADATA)
Index("gov_activities_by_task", LOG.table.c.task_id)
Index(
    "gov_activities_of_groups",
    LOG.table.c.principal,
    LOG.table.c.action,
    LOG.table.c.created_at,
    sqlite_where=text("principal GLOB 'group:*'"),
)

REQUESTS = request_table("gov_requests", METADATA)

SLICE = Slice(
    name="governance",
    tables=frozenset(METADATA.tables),
    migrations=Path(__file__).parent / "migrations",
    log=LOG.name,
    folded={
        "products": ("id",),
        "gov_tasks": ("id",),
        "gov_approvals": ("id",),
        "gov_attempts": ("task_id", "group_name"),
    },
)
