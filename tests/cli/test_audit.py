"""`nanoclaw audit verify`: offline, with the exit code that a script needs."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table, bindparam, insert

from nanoclaw_store import Change, Database, LogTable, Slice, Tx, log_ddl, prepare

METADATA = MetaData()
LOG = LogTable("notes_log", METADATA)
NOTES = Table("notes", METADATA, Column("id", String, primary_key=True), Column("text", String))
ADD = prepare(insert(NOTES).values(id=bindparam("id"), text=bindparam("text")))


@pytest.fixture
async def database(home: Path, tmp_path: Path) -> Path:
    """A database with a log of three rows, closed."""
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    table = "CREATE TABLE notes (id TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL) STRICT;"
    (migrations / "0001_notes.sql").write_text(f"{table}\n{log_ddl('notes_log')}")
    owned = Slice("governance", frozenset({"notes", "notes_log"}), migrations, "notes_log", {"notes": ("id",)})
    path = home / "store" / "nanoclaw.db"
    opened = await Database.open(path, owned)
    for number in range(3):

        def unit(tx: Tx, number: int = number) -> None:
            values = {"id": f"n{number}", "text": "x"}
            tx.run(ADD, **values)
            changes = [Change("notes", {"id": values["id"]}, values)]
            LOG.append(tx, action="create", principal="operator:founder", changes=changes)

        await opened.write(unit)
    await opened.close()
    return path


async def test_a_whole_log_is_said_to_be_whole(nanoclaw: Any, database: Path) -> None:
    """Exit 0; rows and head are named, and no service is needed."""
    ran = await nanoclaw("audit", "verify")
    assert (ran.code, ran.err) == (0, "")
    assert "3 rows, every chain whole, the state equals the fold of the log" in ran.out
    ran = await nanoclaw("audit", "verify", str(database), "--json")
    assert (ran.json["ok"], ran.json["slices"][0]["rows"], ran.json["slices"][0]["head"]["seq"]) == (True, 3, 3)


@pytest.mark.parametrize(
    ("tampering", "where"),
    [
        ("UPDATE notes_log SET reason = 'y' WHERE seq = 2", 2),
        ("UPDATE notes SET text = 'forged' WHERE id = 'n1'", None),
    ],
)
async def test_a_forged_row_is_found_and_the_exit_code_is_1(
    nanoclaw: Any, database: Path, tampering: str, where: int | None
) -> None:
    """In the log, or in the state alone."""
    connection = sqlite3.connect(database)
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f'DROP TRIGGER "{name}"')
    connection.execute(tampering)
    connection.commit()
    connection.close()
    ran = await nanoclaw("audit", "verify")
    assert ran.code == 1
    assert "BROKEN" in ran.out
    ran = await nanoclaw("audit", "verify", "--json")
    assert ran.code == 1
    assert ran.json["findings"]
    assert (ran.json["first_broken"] or {}).get("seq") == where


async def test_what_is_no_database_is_refused(nanoclaw: Any, tmp_path: Path) -> None:
    """Absent, or something else."""
    ran = await nanoclaw("audit", "verify")
    assert (ran.code, ran.err.split(":")[0]) == (1, "error DATABASE_NOT_FOUND")
    (tmp_path / "odd").write_text("hello" * 1000)
    ran = await nanoclaw("audit", "verify", str(tmp_path / "odd"))
    assert (ran.code, ran.err.split(":")[0]) == (1, "error STORE_UNREADABLE")
