"""Rows as messages: the dispatcher's proto at the edge."""

import sqlite3
from collections.abc import Sequence

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2
from nanoclaw_core.errors import invalid
from nanoclaw_dispatcher.groups import Group
from nanoclaw_rpc import times


def dispatch_message(row: sqlite3.Row, attempts: Sequence[sqlite3.Row]) -> pb.Dispatch:
    """A dispatch with its attempts, oldest first."""
    return pb.Dispatch(
        id=row["id"],
        key=row["dispatch_key"],
        task_id=row["task_id"],
        group=row["group_name"],
        rule=row["rule"],
        task_version=row["task_version"],
        state=pb.DispatchState.Value(f"DISPATCH_STATE_{row['state']}"),
        reason=": ".join(part for part in (row["code"], row["reason"]) if part),
        attempts=[attempt_message(attempt) for attempt in attempts],
        priority=governance_pb2.Priority.Value(f"PRIORITY_P{row['priority']}"),
        created_at=times.to_timestamp(row["created_at"]),
        updated_at=times.to_timestamp(row["updated_at"]),
        not_before=times.to_optional(row["not_before"]),
    )


def attempt_message(row: sqlite3.Row) -> pb.Attempt:
    """One attempt."""
    return pb.Attempt(
        id=row["id"],
        number=row["number"],
        state=pb.AttemptState.Value(f"ATTEMPT_STATE_{row['state']}"),
        fence=row["fence"],
        exit_code=row["exit_code"],
        outcome=row["outcome"],
        last_lines=row["last_lines"],
        created_at=times.to_timestamp(row["created_at"]),
        started_at=times.to_optional(row["started_at"]),
        ended_at=times.to_optional(row["ended_at"]),
    )


def group_message(group: Group, running: int, doing: int) -> pb.Group:
    """A group of the configuration, and how busy it is."""
    return pb.Group(
        name=group.name,
        role=str(group.role),
        runtime=group.runtime,
        command=group.command,
        running=running,
        doing=doing,
        wip_limit=group.wip_limit,
        wip_hard=group.wip_hard,
    )


def state_words(states: Sequence["pb.DispatchState.ValueType"]) -> list[str]:
    """States as the rows spell them. Raises INVALID_FIELD for one that is none."""
    known = {value: name.removeprefix("DISPATCH_STATE_") for name, value in pb.DispatchState.items() if value}
    unknown = [state for state in states if state not in known]
    if unknown:
        names = ", ".join(f"DISPATCH_STATE_{one}" for one in known.values())
        raise invalid("states", f"{unknown[0]} is no state of a dispatch", f"choose among {names}")
    return [known[state] for state in states]
