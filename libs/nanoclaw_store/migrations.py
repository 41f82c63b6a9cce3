"""Migrations: numbered SQL files, each applied once, each slice with its own history in the one file."""

import hashlib
import json
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core.clock import Clock, to_text, utc_now
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store.connections import Connect, open_migrator
from nanoclaw_store.failures import is_busy, translate
from nanoclaw_store.filesystems import refuse_shared
from nanoclaw_store.slices import Slice

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_LEADING_COMMENTS = re.compile(r"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)

_SHARED_TABLES = """
CREATE TABLE IF NOT EXISTS store_migrations (
    slice TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at TEXT NOT NULL,
    PRIMARY KEY (slice, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS store_slices (
    slice TEXT NOT NULL PRIMARY KEY, log TEXT NOT NULL, tables TEXT NOT NULL, folded TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Migration:
    """One file of a slice's history."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """What is recorded, so that a file changed afterwards is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrate(
    path: Path, slice_: Slice, *, clock: Clock = utc_now, connect: Connect = sqlite3.connect, wait_seconds: float = 30.0
) -> None:
    """Creates the file if need be (mode 0600, WAL) and brings the slice up to date; several processes may at once.

    Raises NanoclawError: STORE_ON_SHARED_FILE_SYSTEM; STORE_MIGRATION_CHANGED where a file is not the one that was
    applied; STORE_NEWER where the database has a migration that is not in the folder; STORE_MIGRATION_FAILED.
    """
    _create_folder(path.parent)
    refuse_shared(path)
    _create(path)
    deadline = time.monotonic() + wait_seconds
    connection = open_migrator(path, connect)
    try:
        _retrying(connection, "PRAGMA journal_mode = WAL", deadline)
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            raise _broken(f"the journal mode is {mode}, not wal")
        _retrying(connection, "BEGIN EXCLUSIVE", deadline)
        for statement in _statements(_SHARED_TABLES):
            connection.execute(statement)
        _bring_up(connection, slice_, clock)
        _register(connection, slice_)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise translate(error) from error
    finally:
        connection.close()


def read_migrations(folder: Path) -> list[Migration]:
    """The files `0001_name.sql` … of a folder, in order. Raises STORE_MIGRATION_FAILED for a gap or a stray file."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if not match or int(match[1]) != len(found) + 1:
            raise _broken(f"{path.name} is not the migration number {len(found) + 1:04}")
        found.append(Migration(int(match[1]), match[2], path.read_text("utf-8")))
    return found


def _create_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _flush(folder.parent)


def _create(path: Path) -> None:
    # Never open() the file here: closing it would drop the locks that other connections of this process hold.
    try:
        os.mknod(path, stat.S_IFREG | 0o600)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _retrying(connection: sqlite3.Connection, sql: str, deadline: float) -> None:
    while True:
        try:
            connection.execute(sql).fetchall()
            return
        except sqlite3.OperationalError as error:
            # Switching to WAL does not ask the busy handler, so wait here.
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _bring_up(connection: sqlite3.Connection, slice_: Slice, clock: Clock) -> None:
    migrations = read_migrations(slice_.migrations)
    applied = connection.execute(
        "SELECT number, name, sha256 FROM store_migrations WHERE slice = ? ORDER BY number", (slice_.name,)
    ).fetchall()
    if len(applied) > len(migrations):
        raise NanoclawError(
            Kind.PRECONDITION,
            "STORE_NEWER",
            f"the database has {len(applied)} migrations of {slice_.name}, this version knows {len(migrations)}",
            next_step="start the version that wrote it, or a later one",
        )
    for row, migration in zip(applied, migrations, strict=False):
        if (row["number"], row["name"], row["sha256"]) != (migration.number, migration.name, migration.sha256):
            raise NanoclawError(
                Kind.PRECONDITION,
                "STORE_MIGRATION_CHANGED",
                f"{slice_.name} {migration.number:04}_{migration.name}.sql is not the file that was applied",
                next_step="restore the file and put the change into a new migration",
            )
    for migration in migrations[len(applied) :]:
        _apply(connection, slice_, migration)
        connection.execute(
            "INSERT INTO store_migrations (slice, number, name, sha256, applied_at) VALUES (?, ?, ?, ?, ?)",
            (slice_.name, migration.number, migration.name, migration.sha256, to_text(clock())),
        )


def _apply(connection: sqlite3.Connection, slice_: Slice, migration: Migration) -> None:
    where = f"{slice_.name} {migration.number:04}_{migration.name}.sql"
    connection.set_authorizer(_refuse_transactions)
    try:
        for statement in _statements(migration.sql):
            connection.execute(statement)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise _broken(f"{where}: {error}") from error
    finally:
        connection.set_authorizer(None)
    violations = connection.execute("PRAGMA foreign_key_check").fetchall()
    if violations:
        raise _broken(f"{where}: leaves foreign keys that point nowhere, in {sorted({row[0] for row in violations})}")


def _refuse_transactions(action: int, *_: object) -> int:
    ends_it = action in (sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT, sqlite3.SQLITE_ATTACH)
    return sqlite3.SQLITE_DENY if ends_it else sqlite3.SQLITE_OK


def _statements(sql: str) -> Iterator[str]:
    """The statements of a file; each begins on a line of its own. (executescript would commit on its way in.)"""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    rest = _LEADING_COMMENTS.sub("", statement, count=1)
    if rest:
        raise ValueError(f"ends in the middle of a statement: {rest.strip()[:60]!r}")


def _register(connection: sqlite3.Connection, slice_: Slice) -> None:
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    absent = sorted((slice_.tables | {slice_.log} - {""} | slice_.folded.keys()) - there)
    if absent:
        raise _broken(f"{slice_.name}: no migration makes {', '.join(absent)}")
    for row in connection.execute("SELECT slice, tables FROM store_slices WHERE slice <> ?", (slice_.name,)).fetchall():
        both = sorted(slice_.tables & set(json.loads(row["tables"])))
        if both:
            raise _broken(f"{', '.join(both)}: claimed by {slice_.name}, owned by {row['slice']}")
    connection.execute(
        "INSERT INTO store_slices (slice, log, tables, folded) VALUES (?, ?, ?, ?) ON CONFLICT (slice) DO UPDATE "
        "SET log = excluded.log, tables = excluded.tables, folded = excluded.folded "
        "WHERE (log, tables, folded) <> (excluded.log, excluded.tables, excluded.folded)",
        (
            slice_.name,
            slice_.log,
            json.dumps(sorted(slice_.tables)),
            json.dumps({table: list(keys) for table, keys in sorted(slice_.folded.items())}),
        ),
    )


def _broken(message: str) -> NanoclawError:
    return NanoclawError(Kind.PRECONDITION, "STORE_MIGRATION_FAILED", message, next_step="mend the migration")
