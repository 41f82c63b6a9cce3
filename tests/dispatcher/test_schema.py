"""tables.py and the migrations say the same, and so do the lifecycles and what the database allows."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoclaw_dispatcher.dispatch import Rule
from nanoclaw_dispatcher.lifecycle import ATTEMPT_TRANSITIONS, LIVE, AttemptState, Code, DispatchState
from nanoclaw_dispatcher.tables import SLICE, metadata
from nanoclaw_store.migrations import migrate
from nanoclaw_store.testing import assert_schema_matches

NOW = "2026-11-21T12:00:00.000000Z"


def test_the_tables_are_those_that_the_migrations_make() -> None:
    """Column by column, the log's triggers letter by letter."""
    assert_schema_matches(SLICE, metadata)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The migrated slice, without the slice's authorizer: what the schema itself refuses."""
    migrate(tmp_path / "n.db", SLICE)
    connection = sqlite3.connect(tmp_path / "n.db", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    _insert(connection, "gov_dispatches", id="d", dispatch_key="t:READY->DOING:v1", **DISPATCH)
    yield connection
    connection.close()


DISPATCH = {
    "task_id": "t", "group_name": "developer", "rule": 1, "from_state": "READY", "to_state": "DOING",
    "task_version": 1, "seen_version": 1, "round": 1, "priority": 2, "because": "", "state": "ENQUEUED", "code": "",
    "reason": "", "attempts": 1, "failures": 0, "not_before": "", "cancelled_by": "", "traceparent": "",
    "created_at": NOW, "updated_at": NOW,
}  # fmt: skip
ATTEMPT = {
    "dispatch_id": "d", "number": 1, "task_id": "t", "group_name": "developer", "exit_code": None, "outcome": "",
    "last_lines": "", "mailbox": "", "traceparent": "", "created_at": NOW, "started_at": "",
}  # fmt: skip


def _insert(connection: sqlite3.Connection, table: str, **values: object) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))


def _attempt(connection: sqlite3.Connection, fence: int, state: str, **other: object) -> None:
    ended = "" if state in LIVE else NOW
    _insert(
        connection,
        "dispatch_attempts",
        **ATTEMPT | {"fence": fence, "id": f"a{fence}", "state": state, "ended_at": ended} | other,
    )


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("gov_dispatches", "state", DispatchState),
        ("gov_dispatches", "code", Code),
        ("dispatch_attempts", "state", AttemptState),
    ],
)
def test_the_database_knows_the_words_that_the_rules_know(
    disk: sqlite3.Connection, table: str, column: str, words: type
) -> None:
    """Its CHECK lists each state and code, and no other."""
    (sql,) = disk.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    found = re.search(rf"CHECK \({column} IN \(([^)]*)\)\)", sql)
    assert found
    assert set(re.findall(r"'(\w*)'", found[1])) == {str(word) for word in words}


def test_a_dispatch_key_is_used_once(disk: sqlite3.Connection) -> None:
    """Whatever two dispatchers believe at once."""
    with pytest.raises(sqlite3.IntegrityError, match="dispatch_key"):
        _insert(disk, "gov_dispatches", id="other", dispatch_key="t:READY->DOING:v1", **DISPATCH)


def test_rework_is_no_dispatch(disk: sqlite3.Connection) -> None:
    """Rule 3 moves the task and starts nothing, so no row is of it."""
    for rule in (Rule.REWORK, 5, 0):
        with pytest.raises(sqlite3.IntegrityError, match="rule"):
            _insert(disk, "gov_dispatches", id="x", dispatch_key="x", **DISPATCH | {"rule": int(rule)})


@pytest.mark.parametrize("first", AttemptState)
@pytest.mark.parametrize("second", AttemptState)
def test_one_attempt_of_a_group_is_alive_on_a_task(
    disk: sqlite3.Connection, first: AttemptState, second: AttemptState
) -> None:
    """Two only where one of them has ended; another group or another task is free."""
    _attempt(disk, 1, first)
    if {first, second} <= LIVE:
        with pytest.raises(sqlite3.IntegrityError, match=r"task_id.*group_name"):
            _attempt(disk, 2, second)
    else:
        _attempt(disk, 2, second)
    _attempt(disk, 3, AttemptState.STARTED, group_name="security")
    _attempt(disk, 4, AttemptState.STARTED, task_id="t2")


@pytest.mark.parametrize("state", [state for state, next_ones in ATTEMPT_TRANSITIONS.items() if not next_ones])
def test_an_attempt_that_has_ended_does_not_change(disk: sqlite3.Connection, state: AttemptState) -> None:
    """Nor is it, or any dispatch, ever deleted: its fence must not come again."""
    _attempt(disk, 1, state)
    for column, value in (("state", "STARTED"), ("outcome", "LOST"), ("exit_code", 0)):
        with pytest.raises(sqlite3.IntegrityError, match="has ended"):
            disk.execute(f"UPDATE dispatch_attempts SET {column} = ?", (value,))
    with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        disk.execute("DELETE FROM dispatch_attempts")
    with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        disk.execute("DELETE FROM gov_dispatches")


def test_a_fence_and_a_name_are_for_ever(disk: sqlite3.Connection) -> None:
    """A live attempt changes its state, not what others know it by."""
    _attempt(disk, 1, AttemptState.STARTED)
    for column, value in (("fence", 2), ("id", "b")):
        with pytest.raises(sqlite3.IntegrityError, match="has ended"):
            disk.execute(f"UPDATE dispatch_attempts SET {column} = ?", (value,))
    with pytest.raises(sqlite3.IntegrityError, match="ended_at"):
        disk.execute("UPDATE dispatch_attempts SET state = 'DONE'")
