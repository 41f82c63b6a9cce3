"""Connections to the one file: what each kind sets, and what it may not do."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nanoclaw_core.errors import Kind, NanoclawError

Connect = Callable[..., sqlite3.Connection]
"""sqlite3.connect, or a test's that answers a connection with faults."""

_WRITES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_HARMLESS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
     sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT}
)  # fmt: skip


def open_writer(path: Path, tables: frozenset[str], connect: Connect) -> sqlite3.Connection:
    """The writer's: writes the given tables and nothing else. Waits 1 ms for a lock; the writer itself tries again."""
    connection = _open(path, "rw", connect)
    return _prepared(connection, tables, {**_LASTING, "busy_timeout": 1, "journal_size_limit": 64 << 20})


def open_reader(path: Path, connect: Connect) -> sqlite3.Connection:
    """A reader's: writes nothing."""
    connection = _open(path, "ro", connect)
    return _prepared(connection, frozenset(), {**_LASTING, "busy_timeout": 5000, "query_only": 1})


def open_migrator(path: Path, connect: Connect) -> sqlite3.Connection:
    """The migrations': anything goes; foreign keys are checked at the end instead of on the way."""
    connection = _open(path, "rw", connect)
    return _set(connection, {"busy_timeout": 100, "synchronous": 2, "recursive_triggers": 1, "foreign_keys": 0})


_LASTING = {
    "synchronous": 2,  # FULL: what was acknowledged survives power loss
    "foreign_keys": 1,
    "recursive_triggers": 1,  # else INSERT OR REPLACE slips past the append-only triggers
    "trusted_schema": 0,
    "cache_size": -16384,  # KiB
}


def _open(path: Path, mode: str, connect: Connect) -> sqlite3.Connection:
    connection = connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )
    connection.row_factory = sqlite3.Row
    return connection


def _prepared(connection: sqlite3.Connection, tables: frozenset[str], pragmas: dict[str, int]) -> sqlite3.Connection:
    # The first use of json_each declares its table, which the authorizer would take for DDL; later uses do not.
    connection.execute("SELECT value FROM json_each('[]')").fetchall()
    _set(connection, pragmas)
    connection.set_authorizer(_authorizer(tables))
    return connection


def _set(connection: sqlite3.Connection, pragmas: dict[str, int]) -> sqlite3.Connection:
    try:
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name} = {value}").fetchall()
            (actual,) = connection.execute(f"PRAGMA {name}").fetchone()
            if actual != value:  # SQLite ignores what it does not know
                raise NanoclawError(
                    Kind.INTERNAL,
                    "STORE_PRAGMA",
                    f"SQLite has {name} at {actual!r} where {value!r} is needed",
                    next_step="run it with another build of SQLite",
                )
    except BaseException:
        connection.close()
        raise
    return connection


def _authorizer(tables: frozenset[str]) -> Callable[..., int]:
    """Refuses writes outside `tables`, and DDL, ATTACH, PRAGMA and whatever else is not known to be harmless.

    SQLite asks when it compiles a statement, not when it runs one, so this costs nothing per unit.
    """

    def authorize(action: int, first: Any, second: Any, database: Any, trigger: Any) -> int:
        allowed = action in _HARMLESS or (action in _WRITES and first in tables and database == "main")
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize
