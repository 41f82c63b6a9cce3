"""Migrations: each file once, in order, unchanged, by whoever comes first."""

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest

from nanoclaw_core.errors import NanoclawError
from nanoclaw_store import Database, Slice
from nanoclaw_store.migrations import migrate


def _history(pantry):
    connection = pantry.peek()
    try:
        return [tuple(row) for row in connection.execute("SELECT slice, number, name FROM store_migrations")]
    finally:
        connection.close()


def test_each_file_is_applied_once(pantry):
    """A second start changes nothing; a new file is applied by the next."""
    migrate(pantry.path, pantry.slice)
    migrate(pantry.path, pantry.slice)
    assert _history(pantry) == [("pantry", 1, "start")]
    (pantry.migrations / "0002_lids.sql").write_text("ALTER TABLE jars ADD COLUMN lid TEXT NOT NULL DEFAULT 'tin';\n")
    migrate(pantry.path, pantry.slice)
    assert _history(pantry) == [("pantry", 1, "start"), ("pantry", 2, "lids")]


def test_a_file_that_was_changed_after_it_was_applied_is_refused(pantry):
    """Two databases with one history must be one schema."""
    migrate(pantry.path, pantry.slice)
    pantry.start.write_text(pantry.start.read_text() + "-- a word more\n")
    with pytest.raises(NanoclawError, match="STORE_MIGRATION_CHANGED"):
        migrate(pantry.path, pantry.slice)


def test_a_renamed_file_is_refused(pantry):
    """The name is part of the history."""
    migrate(pantry.path, pantry.slice)
    pantry.start.rename(pantry.migrations / "0001_begin.sql")
    with pytest.raises(NanoclawError, match="STORE_MIGRATION_CHANGED"):
        migrate(pantry.path, pantry.slice)


def test_an_older_version_does_not_open_a_newer_database(pantry):
    """It would not know what the tables mean."""
    (pantry.migrations / "0002_lids.sql").write_text("ALTER TABLE jars ADD COLUMN lid TEXT;\n")
    migrate(pantry.path, pantry.slice)
    (pantry.migrations / "0002_lids.sql").unlink()
    with pytest.raises(NanoclawError, match="STORE_NEWER"):
        migrate(pantry.path, pantry.slice)


@pytest.mark.parametrize("name", ["0003_gap.sql", "2_short.sql", "0002-dash.sql", "0001_twice.sql"])
def test_stray_files_are_refused(pantry, name):
    """A migration that would never run is a mistake."""
    (pantry.migrations / name).write_text("SELECT 1;\n")
    with pytest.raises(NanoclawError, match="STORE_MIGRATION_FAILED"):
        migrate(pantry.path, pantry.slice)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE more (id TEXT) STRICT;\nCREATE TABLE jars (id TEXT) STRICT;\n",
        "CREATE TABLE more (id TEXT) STRICT;\nCREATE TABLE unfinished (id TEXT\n",
        "CREATE TABLE more (id TEXT) STRICT;\nCOMMIT;\n",
        "CREATE TABLE more (id TEXT) STRICT;\nROLLBACK;\nBEGIN;\n",
        "CREATE TABLE more (id TEXT) STRICT;\nATTACH ':memory:' AS other;\n",
        "CREATE TABLE more (id TEXT) STRICT;\nINSERT INTO labels VALUES ('nobody', 1, 'x');\n",
        "CREATE TABLE more (id TEXT) STRICT; CREATE TABLE most (id TEXT) STRICT;\n",
    ],
)
def test_a_failing_migration_leaves_nothing_of_itself(pantry, sql):
    """All of a start's migrations are one transaction, which no file can end."""
    migrate(pantry.path, pantry.slice)
    (pantry.migrations / "0002_bad.sql").write_text(sql)
    with pytest.raises(NanoclawError, match="STORE_MIGRATION_FAILED"):
        migrate(pantry.path, pantry.slice)
    connection = pantry.peek()
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'more'").fetchone()[0] == 0
    connection.close()
    assert _history(pantry) == [("pantry", 1, "start")]


def test_comments_and_triggers_are_parsed(pantry):
    """Semicolons in comments, strings and trigger bodies end nothing; a comment may end the file."""
    (pantry.migrations / "0002_more.sql").write_text(
        "-- one; two\n/* three; */\nINSERT INTO jars VALUES ('a;\n--', 'OPEN', 1, NULL, 'now');\n"
        "CREATE TRIGGER late AFTER INSERT ON jars\nBEGIN\n    UPDATE jars SET note = ';';\n    SELECT 1;\nEND;\n"
        "-- the end"
    )
    migrate(pantry.path, pantry.slice)
    assert pantry.jars_on_disk() == ["a;\n--"]


def test_a_table_that_no_migration_makes_is_refused(pantry):
    """The authorizer would allow what is not there."""
    with pytest.raises(NanoclawError, match="no migration makes pots"):
        migrate(pantry.path, replace(pantry.slice, tables=pantry.slice.tables | {"pots"}))


def test_a_table_has_one_owner(pantry):
    """Two slices can't claim the same table."""
    migrate(pantry.path, pantry.slice)
    folder = pantry.folder / "other"
    folder.mkdir()
    (folder / "0001_start.sql").write_text("CREATE TABLE pots (id TEXT PRIMARY KEY NOT NULL) STRICT;\n")
    migrate(pantry.path, Slice("kitchen", frozenset({"pots"}), folder))
    assert _history(pantry) == [("kitchen", 1, "start"), ("pantry", 1, "start")]
    with pytest.raises(NanoclawError, match="owned by pantry"):
        migrate(pantry.path, Slice("kitchen", frozenset({"pots", "jars"}), folder))


def test_a_slice_names_its_log_and_its_folded_tables_among_its_own(pantry):
    """Else verify() would look where the service can't write."""
    with pytest.raises(ValueError, match="not among its tables: pots"):
        replace(pantry.slice, folded={"pots": ("id",)})
    with pytest.raises(ValueError, match="not among its tables: logbook"):
        replace(pantry.slice, log="logbook")


_STARTER = """
import sys
from pathlib import Path
from nanoclaw_store import Database, Slice
from nanoclaw_store.migrations import migrate
path, folder, name = sys.argv[1:]
tables = {"pantry": {"jars", "labels", "traps", "pantry_log", "pantry_requests"}, "kitchen": {"pots"}}[name]
print("ready", flush=True)
sys.stdin.readline()
migrate(Path(path), Slice(name, frozenset(tables), Path(folder)))
"""


def test_several_processes_start_at_once_on_a_new_file(pantry):
    """Four processes of two services, let go together: each file applied once, nobody fails."""
    folder = pantry.folder / "other"
    folder.mkdir()
    (folder / "0001_start.sql").write_text("CREATE TABLE pots (id TEXT PRIMARY KEY NOT NULL) STRICT;\n")
    pipe = subprocess.PIPE
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", _STARTER, pantry.path, where, name], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        for where, name in [(pantry.migrations, "pantry"), (folder, "kitchen")] * 2
    ]
    for starter in starters:
        assert starter.stdout.readline() == "ready\n"
    for starter in starters:
        starter.stdin.write("go\n")
        starter.stdin.flush()
    for starter in starters:
        _, errors = starter.communicate(timeout=50)
        assert starter.returncode == 0, errors
    assert _history(pantry) == [("kitchen", 1, "start"), ("pantry", 1, "start")]


_PROBE = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1], timeout=0).execute("PRAGMA journal_mode = DELETE").fetchone()[0])
"""


async def test_a_start_waits_for_the_start_of_another(pantry, faults):
    """While another process migrates, this one tries again, and reads the history only once it holds the lock."""
    migrate(pantry.path, pantry.slice)
    other = pantry.peek()
    other.execute("BEGIN IMMEDIATE")
    starting = asyncio.ensure_future(asyncio.to_thread(migrate, pantry.path, pantry.slice, connect=faults.connect))
    while faults.statements.count("BEGIN EXCLUSIVE") < 3:
        await asyncio.sleep(0.001)
    assert not any("store_migrations" in statement for statement in faults.statements)
    other.execute("COMMIT")
    other.close()
    await starting


async def test_two_databases_open_at_once_in_one_process(open_database):
    """The same race on one event loop."""
    databases = await asyncio.gather(*(open_database() for _ in range(4)))
    assert [await database.write(lambda tx: 1) for database in databases] == [1] * 4


async def test_opening_the_file_again_does_not_drop_the_locks_of_this_process(open_database, pantry):
    """POSIX drops a process's locks when it closes any descriptor of a file: a start must not open the file itself."""
    await open_database()
    await open_database()
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, pantry.path], capture_output=True, text=True, check=False, timeout=30
    )
    assert "database is locked" in probe.stderr, probe.stdout


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 4080])
async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(pantry, content):
    """With its name and what to do; whatever it is, it may be somebody's."""
    pantry.path.parent.mkdir(parents=True, exist_ok=True)
    pantry.path.write_bytes(content)
    with pytest.raises(NanoclawError, match="STORE_UNREADABLE") as caught:
        await Database.open(pantry.path, pantry.slice)
    assert str(pantry.path) in caught.value.message
    assert "restore it from a backup" in caught.value.next_step
    assert pantry.path.read_bytes() == content
