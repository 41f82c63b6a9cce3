"""Connections: what they set, what they refuse, and where a database may lie."""

import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, Table, Text, bindparam, delete, func, insert, select, update

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store import connections, prepare
from nanoclaw_store.filesystems import file_system, is_shared, refuse_shared

STRANGE = Table("strange", MetaData(), Column("id", Text, primary_key=True))


@pytest.fixture
async def writer(database, pantry):
    """A connection as the writer has it, beside a table that is not of the slice."""
    stranger = pantry.peek()
    stranger.execute("CREATE TABLE strange (id TEXT NOT NULL PRIMARY KEY) STRICT")
    stranger.execute("INSERT INTO strange VALUES ('a')")
    stranger.close()
    connection = connections.open_writer(pantry.path, pantry.slice.tables, sqlite3.connect)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        prepare(insert(STRANGE).values(id="b")),
        prepare(update(STRANGE).values(id="b")),
        prepare(delete(STRANGE).where(STRANGE.c.id == "a")),
    ],
    ids=["insert", "update", "delete"],
)
async def test_a_service_can_not_write_outside_its_slice(database, writer, pantry, statement):
    """Not by accident, not through a unit: SQLite itself refuses."""
    with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
        await database.write(lambda tx: tx.run(statement))
    connection = pantry.peek()
    assert [row["id"] for row in connection.execute("SELECT id FROM strange")] == ["a"]
    connection.close()


async def test_a_list_of_unknown_length_can_be_passed_as_json(database, pantry):
    """In units and in queries, also after another connection changed the schema."""
    names = prepare(select(func.json_each(bindparam("names")).table_valued("value", name="wanted").c.value))
    for _ in range(2):
        assert [row["value"] for row in database.read(lambda tx: tx.all(names, names='["a", "b"]'))] == ["a", "b"]
        assert len(await database.write(lambda tx: tx.all(names, names='["a", "b"]'))) == 2
        connection = pantry.peek()
        connection.execute("CREATE TABLE IF NOT EXISTS stranger (id TEXT) STRICT")
        connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE more (id TEXT)",
        "CREATE TEMP TABLE more (id TEXT)",
        "CREATE INDEX more ON jars (note)",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TEMP TRIGGER more AFTER INSERT ON jars BEGIN DELETE FROM strange; END",
        "ALTER TABLE jars ADD COLUMN more TEXT",
        "DROP TABLE jars",
        "DROP TRIGGER pantry_log_no_update",
        "REINDEX",
        "ANALYZE",
        "VACUUM",
        "ATTACH DATABASE ':memory:' AS other",
        "DETACH DATABASE main",
        "PRAGMA writable_schema = 1",
        "PRAGMA recursive_triggers = 0",
        "PRAGMA synchronous = 0",
        "PRAGMA journal_mode = DELETE",
        "UPDATE sqlite_schema SET sql = ''",
        "INSERT INTO store_migrations VALUES ('pantry', 9, 'x', 'x', 'x')",
        "DELETE FROM store_slices",
        "SELECT load_extension('x')",
    ],
)
async def test_a_service_connection_refuses_all_but_queries_and_its_own_rows(writer, sql):
    """DDL, ATTACH, PRAGMA, the store's own tables: denied, not merely unused."""
    with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|authorization denied|prohibited|may not be"):
        writer.execute(sql)


async def test_a_service_connection_may_do_its_work(writer):
    """The authorizer does not stand in the way of the slice's own rows and of reading."""
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("SAVEPOINT unit")
    writer.execute("INSERT INTO jars VALUES ('a', 'OPEN', 1, NULL, 'now')")
    writer.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 3) SELECT sum(i) FROM n")
    writer.execute("UPDATE jars SET beans = abs(beans) + 1")
    writer.execute("DELETE FROM jars")
    writer.execute("RELEASE unit")
    writer.execute("COMMIT")


@pytest.mark.parametrize("sql", ["DELETE FROM jars", "CREATE TABLE more (id TEXT)", "PRAGMA query_only = 0"])
async def test_a_reader_writes_nothing(database, pantry, sql):
    """Three guards, each enough: mode=ro, query_only, the authorizer."""
    reader = connections.open_reader(pantry.path, sqlite3.connect)
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        reader.execute(sql)
    reader.set_authorizer(None)
    assert reader.execute("PRAGMA query_only").fetchone()[0] == 1
    reader.execute("PRAGMA query_only = 0")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM jars")
    reader.close()


async def test_a_query_can_not_write(database, pantry):
    """read() hands out a view that refuses."""
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        database.read(lambda tx: tx.run(pantry.put_bean, jar="a"))


async def test_every_connection_has_its_pragmas(database, pantry):
    """FULL, foreign keys, recursive triggers, WAL: what durability and the append-only triggers rest upon."""
    for connection in (
        connections.open_writer(pantry.path, pantry.slice.tables, sqlite3.connect),
        connections.open_reader(pantry.path, sqlite3.connect),
    ):
        connection.set_authorizer(None)
        values = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "foreign_keys", "recursive_triggers", "journal_mode", "trusted_schema")
        }
        assert values == {
            "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1, "journal_mode": "wal", "trusted_schema": 0
        }  # fmt: skip
        connection.close()


def test_a_pragma_that_sqlite_does_not_take_stops_the_start(tmp_path):
    """SQLite ignores a pragma it does not know without a word."""

    class Deaf(sqlite3.Connection):
        def execute(self, sql, *args):
            return super().execute(sql.replace("synchronous = 2", "synchronous = 1"), *args)

    sqlite3.connect(tmp_path / "x.db").close()
    with pytest.raises(NanoclawError, match="STORE_PRAGMA"):
        connections.open_writer(
            tmp_path / "x.db", frozenset(), lambda *args, **options: sqlite3.connect(*args, factory=Deaf, **options)
        )


async def test_only_the_owner_reads_the_files(database, pantry):
    """0600 for the database, its WAL and its shared memory; the folder is the owner's alone."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in pantry.path.parent.iterdir()}
    assert modes == {"nanoclaw.db": 0o600, "nanoclaw.db-wal": 0o600, "nanoclaw.db-shm": 0o600}
    assert stat.S_IMODE(pantry.path.parent.stat().st_mode) == 0o700


async def test_a_file_that_others_could_read_is_closed_to_them(pantry, open_database):
    """A database copied in with a loose mode is tightened at start."""
    pantry.path.parent.mkdir()
    pantry.path.touch(mode=0o644)
    pantry.path.chmod(0o644)
    await open_database()
    assert stat.S_IMODE(pantry.path.stat().st_mode) == 0o600


MOUNTS = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /home/ana/share rw - nfs4 server:/x rw
31 22 0:31 / /mnt/host\040folder rw shared:1 - fuse.sshfs ana@host: rw
32 30 0:32 / /home/ana/share/local rw - xfs /dev/vdb rw
33 22 0:33 / /over rw - vboxsf x rw
34 22 0:34 / /over rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/nanoclaw/store", "ext4"),
        ("/home/ana/share/nanoclaw.db", "nfs4"),
        ("/home/ana/shared", "ext4"),
        ("/mnt/host folder/x", "fuse.sshfs"),
        ("/home/ana/share/local/x", "xfs"),
        ("/over/x", "tmpfs"),
    ],
)
def test_the_innermost_and_last_mount_tells_the_file_system(path, kind):
    """As the kernel resolves it; a folder that merely begins alike is another."""
    assert file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.anything", "vboxsf", "virtiofs", "ceph"]
)
def test_shared_file_systems_are_known(kind):
    """Network, shared folder, or a FUSE one nobody vouches for."""
    assert is_shared(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "fuse.fuse-overlayfs"])
def test_local_file_systems_pass(kind):
    """Those that lock and flush for real."""
    assert not is_shared(kind)


async def test_a_database_on_a_shared_file_system_is_refused_before_it_is_made(pantry, open_database, monkeypatch):
    """Refused at start, with the reason and what to do; nothing is left there."""
    mounts = pantry.folder / "mounts"
    mounts.write_text(f"22 1 0:1 / / rw - ext4 x rw\n23 22 0:2 / {pantry.folder} rw - cifs //host/x rw\n")
    monkeypatch.setattr("nanoclaw_store.filesystems._MOUNTS", mounts)
    with pytest.raises(NanoclawError) as caught:
        await open_database()
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "STORE_ON_SHARED_FILE_SYSTEM")
    assert caught.value.facts["file_system"] == "cifs"
    assert caught.value.next_step
    assert not pantry.path.exists()


def test_an_unknown_file_system_is_refused(tmp_path):
    """Fail closed: no mountinfo, no database."""
    with pytest.raises(NanoclawError, match="STORE_FILE_SYSTEM_UNKNOWN"):
        refuse_shared(tmp_path, tmp_path / "absent")


async def test_the_append_only_log_resists_its_own_service(database, pantry):
    """UPDATE, DELETE, INSERT OR REPLACE and an upsert of a log row: all refused, by the database."""
    head = await database.write(lambda tx: pantry.new_jar(tx, "a"))
    log = pantry.log.table
    row = dict(database.read(lambda tx: tx.all(prepare(select(log)))[0]))
    attacks = [
        prepare(update(log).values(reason="never")),
        prepare(delete(log).where(log.c.seq == 1)),
        prepare(insert(log).prefix_with("OR REPLACE").values(**row | {"reason": "never"})),
        prepare(insert(log).prefix_with("OR REPLACE").values(**row | {"seq": 2, "reason": "never"})),
        prepare(insert(log).prefix_with("OR IGNORE").values(**row | {"seq": bindparam("n")})),
    ]
    for attack in attacks[:4]:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            await database.write(lambda tx, attack=attack: tx.run(attack))
    assert await database.write(lambda tx: tx.run(attacks[4], n=7)) == 0
    assert database.read(pantry.log.head) == head
