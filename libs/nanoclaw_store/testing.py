"""For tests of the services: tables.py against the migrations, and the invariants of a database."""

import re
import sqlite3
import tempfile
from pathlib import Path

from sqlalchemy import MetaData, Table
from sqlalchemy.types import TypeEngine

from nanoclaw_store.fold import quoted
from nanoclaw_store.log import log_ddl
from nanoclaw_store.migrations import migrate
from nanoclaw_store.slices import Slice
from nanoclaw_store.verification import verify

_TYPES = {"String": "TEXT", "Integer": "INTEGER", "Boolean": "INTEGER", "_Binary": "BLOB", "Float": "REAL"}
_KINDS = {"INT": "INTEGER"}


def invariants(path: Path) -> None:
    """Raises AssertionError with the findings of verify()."""
    report = verify(path)
    assert report.ok, "\n".join(("the invariants do not hold:", *report.findings))


def assert_schema_matches(slice_: Slice, metadata: MetaData) -> None:
    """Runs the slice's migrations on an empty database and holds them against its tables.py.

    Compared: the set of tables; of each its columns in their order with type, NOT NULL and place in the primary key;
    that it is STRICT; that what tables.py calls unique is; that no foreign key leaves the slice; the log's SQL and
    triggers, letter by letter; that the columns of `folded` are a key. Raises AssertionError with all that differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schema.db"
        migrate(path, slice_)
        connection = sqlite3.connect(path)
        try:
            wrong = _differences(connection, slice_, metadata)
        finally:
            connection.close()
    assert not wrong, "\n".join((f"tables.py of {slice_.name} and its migrations differ:", *wrong))


def _differences(connection: sqlite3.Connection, slice_: Slice, metadata: MetaData) -> list[str]:
    migrated = {
        row[1]: row[5]
        for row in connection.execute("PRAGMA table_list")
        if row[0] == "main" and row[2] == "table" and not row[1].startswith(("sqlite_", "store_"))
    }
    wrong = []
    for names, where in (
        (migrated.keys() - slice_.tables, "made by a migration, not in the slice"),
        (slice_.tables - metadata.tables.keys(), "in the slice, not in tables.py"),
        (metadata.tables.keys() - slice_.tables, "in tables.py, not in the slice"),
    ):
        wrong += [f"{name}: {where}" for name in sorted(names)]
    wrong += [f"{name}: is not STRICT" for name, strict in sorted(migrated.items()) if not strict]
    for name in sorted(slice_.tables & metadata.tables.keys()):
        wrong += _table_differences(connection, metadata.tables[name])
        for (target,) in connection.execute('SELECT "table" FROM pragma_foreign_key_list(?)', (name,)):
            if target not in slice_.tables:
                wrong.append(f"{name}: a foreign key leaves the slice, to {target}")
    for name, keys in slice_.folded.items():
        if frozenset(keys) not in _unique(connection, name):
            wrong.append(f"{name}: folded by {', '.join(keys)}, which is not a key")
    if slice_.log:
        wrong += _log_differences(connection, slice_.log)
    return wrong


def _table_differences(connection: sqlite3.Connection, table: Table) -> list[str]:
    declared = [(column.name, _kind(column.type), not column.nullable, column.primary_key) for column in table.columns]
    migrated = [
        (name, _KINDS.get(kind, kind), bool(not_null or key), bool(key))
        for _, name, kind, not_null, _, key in connection.execute(f"PRAGMA table_info({quoted(table.name)})")
    ]
    wrong = [
        f"{table.name}: {missing} only in {where}"
        for there, here, where in ((declared, migrated, "tables.py"), (migrated, declared, "the migrations"))
        for missing in there
        if missing not in here
    ]
    if not wrong and declared != migrated:
        wrong.append(f"{table.name}: the order of the columns differs")
    unique = _unique(connection, table.name)
    for column in table.columns:
        if column.unique and frozenset({column.name}) not in unique:
            wrong.append(f"{table.name}: {column.name} is unique in tables.py only")
    return wrong


def _kind(kind: TypeEngine[object]) -> str:
    affinity = kind._type_affinity
    name = affinity.__name__ if affinity else type(kind).__name__
    return _TYPES.get(name, "REAL" if name == "Numeric" else name)


def _unique(connection: sqlite3.Connection, table: str) -> set[frozenset[str]]:
    """The sets of columns that identify a row: primary key and whole unique indexes."""
    info = connection.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
    found = {frozenset(row[1] for row in info if row[5])}
    for index in connection.execute(f"PRAGMA index_list({quoted(table)})").fetchall():
        if index[2] and not index[4]:
            found.add(
                frozenset(row[2] for row in connection.execute(f"PRAGMA index_info({quoted(index[1])})").fetchall())
            )
    return found


def _log_differences(connection: sqlite3.Connection, log: str) -> list[str]:
    expected = sqlite3.connect(":memory:")
    try:
        expected.executescript(log_ddl(log))
        query = "SELECT name, sql FROM sqlite_schema WHERE tbl_name = ? AND type IN ('table', 'trigger')"
        wanted, made = (
            {name: _plain(sql) for name, sql in each.execute(query, (log,))} for each in (expected, connection)
        )
    finally:
        expected.close()
    return [f"{log}: {name} is not as log_ddl has it" for name, sql in wanted.items() if made.get(name) != sql]


def _plain(sql: str) -> str:
    return re.sub(r"\s+", " ", sql).strip()
