"""Rates: how many facts a group may cause in a minute, counted in the log itself, so exactly and across restarts."""

from datetime import timedelta

from sqlalchemy import bindparam, func, select

from nanoclaw_core.clock import from_text, to_text
from nanoclaw_core.errors import Kind, NanoclawError, Violation
from nanoclaw_core.principal import Caller
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.tables import LOG
from nanoclaw_store import Tx, prepare

WINDOW = timedelta(seconds=60)

_COUNT = prepare(
    select(func.count())
    .select_from(LOG.table)
    .where(
        LOG.table.c.principal == bindparam("who"),
        LOG.table.c.action == bindparam("what"),
        LOG.table.c.created_at > bindparam("since"),
        LOG.table.c.principal.op("GLOB")("group:*"),  # the index holds groups only: this term lets SQLite use it
    )
)


def exceeded(tx: Tx, caller: Caller, action: str, policy: Policy) -> Violation | None:
    """RATE_LIMITED if the caller is a group that has caused as many of these facts in the last minute as it may."""
    group = caller.group
    if not group:
        return None
    most = policy.rate(action, group)
    since = to_text(from_text(tx.now) - WINDOW)
    row = tx.one(_COUNT, who=caller.principal, what=action, since=since)
    if row is None or row[0] < most:
        return None
    return Violation(
        "RATE_LIMITED", f"group {group} has caused {row[0]} of {most} {action} facts in a minute", "wait a minute"
    )


def check(tx: Tx, caller: Caller, action: str, policy: Policy) -> None:
    """Raises RATE_LIMITED."""
    if violation := exceeded(tx, caller, action, policy):
        raise NanoclawError(
            Kind.EXHAUSTED, violation.code, violation.message, next_step=violation.next_step, retry_after_seconds=60
        )
