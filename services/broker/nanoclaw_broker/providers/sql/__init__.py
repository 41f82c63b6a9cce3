"""The provider `sql`: reads and writes in the operator's databases, PostgreSQL and SQLite."""

from nanoclaw_broker.providers.sql.actions import provider

__all__ = ["provider"]
