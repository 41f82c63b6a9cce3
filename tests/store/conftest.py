"""A small slice on a real database, and connections that fail on demand."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, func, insert, select, update

from nanoclaw_store import Change, Database, Head, LogTable, Slice, Tx, UtcText, log_ddl, prepare, request_table
from nanoclaw_store.requests import requests_ddl

JARS_DDL = """\
CREATE TABLE jars (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'SHUT')),
    beans INTEGER NOT NULL CHECK (beans >= 0),
    note TEXT,
    touched_at TEXT NOT NULL
) STRICT;
CREATE INDEX jars_open ON jars (id) WHERE state = 'OPEN';
CREATE TABLE labels (
    jar_id TEXT NOT NULL REFERENCES jars (id) DEFERRABLE INITIALLY DEFERRED,
    number INTEGER NOT NULL,
    word TEXT NOT NULL,
    PRIMARY KEY (jar_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE traps (how TEXT NOT NULL) STRICT;
CREATE TRIGGER traps_rollback BEFORE INSERT ON traps WHEN NEW.how = 'ROLLBACK'
BEGIN
    SELECT RAISE(ROLLBACK, 'the trap ends the transaction');
END;
"""


@dataclass
class Pantry:
    """The slice `pantry`: jars and their labels, folded from its log; everything under its test's folder."""

    folder: Path
    metadata: MetaData = field(default_factory=MetaData)

    def __post_init__(self) -> None:
        self.path = self.folder / "store" / "nanoclaw.db"
        self.migrations = self.folder / "migrations"
        self.migrations.mkdir()
        self.start = self.migrations / "0001_start.sql"
        self.start.write_text(JARS_DDL + log_ddl("pantry_log") + requests_ddl("pantry_requests"))
        self.jars = Table(
            "jars",
            self.metadata,
            Column("id", Text, primary_key=True),
            Column("state", Text, nullable=False),
            Column("beans", Integer, nullable=False),
            Column("note", Text),
            Column("touched_at", UtcText, nullable=False),
        )
        self.labels = Table(
            "labels",
            self.metadata,
            Column("jar_id", Text, primary_key=True),
            Column("number", Integer, primary_key=True),
            Column("word", Text, nullable=False),
        )
        self.traps = Table("traps", self.metadata, Column("how", Text, nullable=False))
        self.log = LogTable("pantry_log", self.metadata)
        self.requests = request_table("pantry_requests", self.metadata)
        self.slice = Slice(
            name="pantry",
            tables=frozenset(self.metadata.tables),
            migrations=self.migrations,
            log="pantry_log",
            folded={"jars": ("id",), "labels": ("jar_id", "number")},
        )
        jars = self.jars.c
        self.add = prepare(insert(self.jars))
        self.get = prepare(select(self.jars).where(jars.id == bindparam("jar")))
        self.count = prepare(select(func.count()).select_from(self.jars))
        self.put_bean = prepare(update(self.jars).where(jars.id == bindparam("jar")).values(beans=jars.beans + 1))
        self.label = prepare(insert(self.labels))
        self.trap = prepare(insert(self.traps))

    def new_jar(self, tx: Tx, jar: str, note: str | None = None, **facts: Any) -> Head:
        """A unit of its own: a jar, and its log row."""
        values = {"state": "OPEN", "beans": 0, "note": note, "touched_at": tx.now}
        tx.run(self.add, id=jar, **values)
        return self.log.append(
            tx, action="create", principal="operator:ana", subject=jar, facts=facts,
            changes=[Change("jars", {"id": jar}, {"id": jar, **values})],
        )  # fmt: skip

    def bean(self, tx: Tx, jar: str = "a") -> int:
        """A unit of its own: one more bean, logged; answers how many there are."""
        row = tx.one(self.get, jar=jar)
        assert row is not None
        tx.run(self.put_bean, jar=jar)
        beans: int = row["beans"] + 1
        self.log.append(
            tx, action="bean", principal="group:cook", subject=jar,
            changes=[Change("jars", {"id": jar}, {"beans": beans})],
        )  # fmt: skip
        return beans

    def peek(self) -> sqlite3.Connection:
        """A plain connection, that of a stranger; the caller closes it."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.row_factory = sqlite3.Row
        return connection

    def jars_on_disk(self) -> list[str]:
        """What somebody else sees."""
        connection = self.peek()
        try:
            return [row[0] for row in connection.execute("SELECT id FROM jars ORDER BY id")]
        finally:
            connection.close()


@pytest.fixture
def pantry(tmp_path: Path) -> Pantry:
    return Pantry(tmp_path)


OpenDatabase = Callable[..., Awaitable[Database]]


@pytest.fixture
async def open_database(pantry: Pantry) -> AsyncIterator[OpenDatabase]:
    """`await open_database(**options)`: the pantry's database; closed after the test."""
    databases: list[Database] = []

    async def open_(**options: Any) -> Database:
        databases.append(await Database.open(pantry.path, pantry.slice, **options))
        return databases[-1]

    yield open_
    for database in databases:
        await database.close()


@pytest.fixture
async def database(open_database: OpenDatabase) -> Database:
    return await open_database()


class Faults:
    """Says which statements of the database's connections fail. Pass `connect` and `die` to Database.open."""

    def __init__(self) -> None:
        self.deaths: list[str] = []
        self.died = threading.Event()
        self.statements: list[str] = []
        self.opened = 0
        self.pragmas: list[str] = []
        self._planned: list[tuple[str, int | None, bool]] = []
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                faults.statements.append(sql)
                code, done = faults._due(sql)
                if code is None:
                    return super().execute(sql, *args)
                if done:
                    super().execute(sql, *args)
                raise faults.error(code)

        self._factory = Connection

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        """The `connect` of Database.open."""
        connection = sqlite3.connect(*args, factory=self._factory, **options)
        self.opened += 1
        for pragma in self.pragmas:
            sqlite3.Connection.execute(connection, pragma).close()
        return connection

    def die(self, reason: str) -> None:
        """The `die` of Database.open."""
        self.deaths.append(reason)
        self.died.set()

    def plan(self, prefix: str, code: int, *, after: int = 0, times: int = 1, done: bool = False) -> None:
        """The next statements that begin with the prefix fail with the code.

        after: how many pass before. done: they fail after they have been done.
        """
        self._planned += [(prefix, None, False)] * after + [(prefix, code, done)] * times

    def _due(self, sql: str) -> tuple[int | None, bool]:
        for plan in self._planned:
            if sql.startswith(plan[0]):
                self._planned.remove(plan)
                return plan[1:]
        return None, False

    @staticmethod
    def error(code: int) -> sqlite3.OperationalError:
        """An error as the driver raises it."""
        error = sqlite3.OperationalError(f"fault {code}")
        error.sqlite_errorcode = code
        return error


@pytest.fixture
def faults() -> Faults:
    return Faults()


@dataclass
class Gate:
    """Holds the writer, so that what is written meanwhile comes into one batch."""

    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def unit(self, tx: Tx) -> None:
        """The unit that holds it."""
        self.entered.set()
        assert self.opened.wait(30)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def in_one_batch(gate: Gate) -> Callable[..., Awaitable[list[Any]]]:
    """`await in_one_batch(database, unit, …)`: the units' values or errors, all from one batch."""

    async def run(database: Database, *units: Callable[[Tx], Any]) -> list[Any]:
        held = asyncio.ensure_future(database.write(gate.unit))
        await asyncio.to_thread(gate.entered.wait, 30)
        writes = [asyncio.ensure_future(database.write(unit)) for unit in units]
        await asyncio.sleep(0)
        gate.opened.set()
        await held
        return await asyncio.gather(*writes, return_exceptions=True)

    return run
