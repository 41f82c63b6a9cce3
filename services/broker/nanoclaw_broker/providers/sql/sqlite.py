"""A SQLite file of the operator's, in threads of its own; a connection for each call."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.base import ActionFailed
from nanoclaw_broker.providers.sql.database import DONE, EFFECTS, VOID, Rows, effect_void

_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {EFFECTS} (effect_key TEXT PRIMARY KEY, outcome TEXT NOT NULL,"
    " made_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
)
_MARK = f"INSERT OR IGNORE INTO {EFFECTS} (effect_key, outcome) VALUES (?, ?)"  # noqa: S608
_OUTCOME = f"SELECT outcome FROM {EFFECTS} WHERE effect_key = ?"  # noqa: S608
_NEVER = frozenset({sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_TRANSACTION})
_STEPS_BETWEEN_LOOKS = 10_000
_AT_ONCE = 4
MOST_CELL = 8 * 1024 * 1024
"""Bytes of one value, of one row, and of whatever a statement computes in between."""
_MOST_READ = 1024 * 1024
"""Bytes of all rows: an agent is shown far less."""
_TROUBLE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_NOTADB", "SQLITE_CORRUPT")

T = TypeVar("T")


class Sqlite:
    """See RemoteDatabase. seconds: for one statement, and to wait for other writers."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        # Its own: on the loop's threads slow statements would keep names from being resolved, for all other calls.
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="sql-sqlite")

    async def read(self, sql: str, values: Sequence[Any], most: int) -> Rows:
        """See RemoteDatabase."""

        def work(connection: sqlite3.Connection) -> Rows:
            connection.execute("PRAGMA query_only = ON")
            return _guarded(connection, sql, values, most)

        return await self._run(work)

    async def write(self, sql: str, values: Sequence[Any], key: str, most: int) -> Rows:
        """See RemoteDatabase."""

        def work(connection: sqlite3.Connection) -> Rows:
            with _transaction(connection):
                connection.execute(_CREATE)
                if connection.execute(_MARK, (key, DONE)).rowcount != 1:
                    raise effect_void()
                return _guarded(connection, sql, values, most)

        return await self._run(work)

    async def happened(self, key: str) -> bool:
        """See RemoteDatabase."""

        def work(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                connection.execute(_CREATE)
                connection.execute(_MARK, (key, VOID))
                return bool(connection.execute(_OUTCOME, (key,)).fetchone()[0] == DONE)

        return await self._run(work)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._with, work)

    def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            mode = f"file:{quote(str(self._path))}?mode=rw"
            connection = sqlite3.connect(mode, uri=True, timeout=self._seconds, isolation_level=None)
        except sqlite3.OperationalError:
            raise _unreachable() from None
        end = time.monotonic() + self._seconds
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_CELL)
        connection.text_factory = _text
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
        try:
            return work(connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
            if code.startswith("SQLITE_IOERR"):  # of a COMMIT nobody knows what it did
                raise OSError(code) from None
            if code.startswith(_TROUBLE):
                raise _unreachable() from None
            raise ActionFailed(
                "SQL_REFUSED",
                excerpt(f"the database says: {error}", 1000),
                next_steps=("mend the statement or its values",),
                sqlite=code,
            ) from None
        finally:
            connection.close()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")


def _guarded(connection: sqlite3.Connection, sql: str, values: Sequence[Any], most: int) -> Rows:
    """One statement, which may not leave the file nor look at the effects."""
    before = connection.total_changes
    connection.set_authorizer(_authorize)
    try:
        cursor = connection.execute(sql, tuple(values))
        found, whole = _fetch(cursor, most)
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.Warning, OverflowError, UnicodeError) as error:
        raise ActionFailed("SQL_VALUES", excerpt(str(error), 500), next_steps=("mend the values",)) from None
    finally:
        connection.set_authorizer(None)
    columns = [column[0] for column in cursor.description or ()]
    cursor.close()  # a statement that still had rows would keep the transaction from its end
    return Rows(columns, found, connection.total_changes - before, whole=whole)


def _fetch(cursor: sqlite3.Cursor, most: int) -> tuple[list[tuple[Any, ...]], bool]:
    """At most so many rows, and not more than can be shown; whether these are all."""
    found: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(found) == most or size > _MOST_READ:
            return found, False
        found.append(row)
    return found, True


def _text(raw: bytes) -> str:
    """Texts of a file may be in any encoding, whatever SQLite says."""
    return raw.decode(errors="replace")


def _authorize(action: int, first: str | None, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action in _NEVER or first == EFFECTS else sqlite3.SQLITE_OK


def _unreachable() -> ActionFailed:
    return ActionFailed(
        "DATABASE_UNREACHABLE",
        "the database file can't be opened or is busy",
        next_steps=("send it again later", "ask an operator to look at the file"),
        in_trouble=True,
    )
