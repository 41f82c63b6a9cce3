"""verify(): a whole log passes; whatever is changed behind the store's back is found and named."""

import asyncio
import itertools
import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, delete, update

from nanoclaw_core.clock import utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_store import Change, Head, Slice, Tx, prepare, verify
from nanoclaw_store.chain import Walk
from nanoclaw_store.log import row_hash, row_text
from nanoclaw_store.migrations import migrate
from nanoclaw_store.testing import invariants

JARS = st.sampled_from("abcde")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("bean"), JARS),
        st.tuples(st.just("note"), JARS, st.none() | st.text(max_size=8).filter(lambda text: "\0" not in text)),
        st.tuples(st.just("label"), JARS, st.integers(1, 3)),
        st.tuples(st.just("peel"), JARS, st.integers(1, 3)),
        st.tuples(st.just("remark")),
        st.tuples(st.just("epoch")),
    ),
    min_size=3,
    max_size=25,
)
HYPOTHESIS = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass
class Histories:
    """Writes random histories into fresh copies of an empty database, each step through the store's own code."""

    pantry: SimpleNamespace
    empty: Path

    def __post_init__(self) -> None:
        jars, labels = self.pantry.jars, self.pantry.labels
        self._numbers = itertools.count()
        self._note = prepare(update(jars).where(jars.c.id == bindparam("jar")), ["note"])
        self._peel = prepare(
            delete(labels).where(labels.c.jar_id == bindparam("jar"), labels.c.number == bindparam("which"))
        )
        self._labels = {}

    def write(self, steps) -> Path:
        """The path of a database with these steps in it."""
        path = self.empty.with_name(f"history{next(self._numbers)}.db")
        shutil.copy(self.empty, path)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = 1")
        connection.execute("BEGIN")
        tx = Tx(connection, utc_now)
        jars, labels = set(), set()
        for step in steps:
            self._step(tx, jars, labels, *step)
        connection.execute("COMMIT")
        connection.close()
        return path

    def _step(self, tx, jars, labels, action, jar="", detail=None) -> None:
        pantry, log = self.pantry, self.pantry.log
        if jar and jar not in jars:
            jars.add(jar)
            pantry.new_jar(tx, jar)
        changes = []
        if action == "bean":
            pantry.bean(tx, jar)
            return
        if action == "epoch":
            log.open_epoch(tx, Head(1, 99, "f" * 64), principal="operator:ana")
            return
        if action == "note":
            tx.run(self._note, jar=jar, note=detail)
            changes = [Change("jars", {"id": jar}, {"note": detail})]
        elif action == "label" and (jar, detail) not in labels:
            labels.add((jar, detail))
            row = {"jar_id": jar, "number": detail, "word": f"w{detail}"}
            tx.run(pantry.label, **row)
            changes = [Change("labels", {"jar_id": jar, "number": detail}, row)]
        elif action == "peel" and (jar, detail) in labels:
            labels.remove((jar, detail))
            tx.run(self._peel, jar=jar, which=detail)
            changes = [Change("labels", {"jar_id": jar, "number": detail}, None)]
        log.append(tx, action=action, principal="group:cook", changes=changes, reason="because", task_id=jar)


@pytest.fixture
def histories(pantry, tmp_path):
    empty = tmp_path / "empty.db"
    migrate(empty, pantry.slice)
    return Histories(pantry, empty)


def tamper(path: Path, sql: str, *values) -> int:
    """Writes as somebody who has the file and knows SQLite; answers how many rows it hit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = 1")
    for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    try:
        return connection.execute(sql, values).rowcount
    finally:
        connection.close()


@HYPOTHESIS
@given(steps=STEPS, at_once=st.sampled_from([1, 2, 250_000]))
def test_every_history_the_store_writes_is_whole(histories, steps, at_once):
    """State equals fold(log), whether the state is folded at once or in parts."""
    path = histories.write(steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanoclaw_store.verification.ROWS_AT_ONCE", at_once)
        report = verify(path)
    assert report.findings == ()
    assert report.ok
    (part,) = report.slices
    assert part.rows == part.head.seq >= len(steps)


LOG_COLUMNS = [
    "seq", "epoch", "task_id", "subject", "action", "from_state", "to_state", "principal", "via", "attempt_id",
    "reason", "change", "policy_version", "request_ref", "trace_id", "created_at", "prev_hash", "hash",
]  # fmt: skip


@HYPOTHESIS
@given(steps=STEPS, column=st.sampled_from(LOG_COLUMNS), data=st.data())
def test_a_change_of_any_column_of_any_log_row_is_found(histories, steps, column, data):
    """One value, anywhere in the log: the first broken row is named by epoch and seq, with what is wrong."""
    path = histories.write(steps)
    rows = verify(path).slices[0].rows
    seq = data.draw(st.integers(1, rows), label="seq")
    new = "? + 1000" if column == "seq" else f"{column} + ?" if column == "epoch" else f"{column} || ?"
    value = data.draw(st.integers(1, 5) if column in ("seq", "epoch") else st.sampled_from(["x", " ", "0", "\n", "☃"]))
    assert tamper(path, f"UPDATE pantry_log SET {column} = {new} WHERE seq = {seq}", value) == 1
    report = verify(path)
    assert not report.ok
    assert report.first_broken is not None
    if column == "seq":
        assert report.first_broken.seq == (value + 1000 if seq == rows else seq + 1)
    else:
        assert report.first_broken.seq == seq
    assert any(finding.startswith(f"pantry: row {report.first_broken.seq} ") for finding in report.findings)


@HYPOTHESIS
@given(steps=STEPS, data=st.data())
def test_a_row_that_is_rewritten_with_its_hash_breaks_the_next(histories, steps, data):
    """Who recomputes a row's hash would have to recompute all that follow."""
    path = histories.write(steps)
    seq = data.draw(st.integers(1, verify(path).slices[0].rows - 1), label="seq")
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    row = dict(connection.execute("SELECT * FROM pantry_log WHERE seq = ?", (seq,)).fetchone())
    connection.close()
    row["reason"] += "!"
    prev_hash = row.pop("prev_hash")
    del row["hash"]
    hash_ = row_hash(prev_hash, row_text(**row))
    tamper(path, f"UPDATE pantry_log SET reason = ?, hash = ? WHERE seq = {seq}", row["reason"], hash_)
    broken = verify(path).first_broken
    assert broken is not None
    assert (broken.seq, broken.what) == (seq + 1, "its prev_hash is not the hash of the row before")


@HYPOTHESIS
@given(steps=STEPS, data=st.data())
def test_a_missing_log_row_is_found(histories, steps, data):
    """A gap names how many rows are gone."""
    path = histories.write(steps)
    seq = data.draw(st.integers(1, verify(path).slices[0].rows - 1), label="seq")
    tamper(path, "DELETE FROM pantry_log WHERE seq = ?", seq)
    broken = verify(path).first_broken
    assert broken is not None
    assert broken.seq == seq + 1
    assert "1 rows are missing" in broken.what


@HYPOTHESIS
@given(steps=STEPS, at_once=st.sampled_from([2, 250_000]), data=st.data())
def test_a_change_of_any_cell_of_the_state_is_found(histories, steps, at_once, data):
    """One value in a folded table: named by table, key and column, with what the log says."""
    path = histories.write([("note", "a", "x"), ("label", "b", 9), *steps])
    table, column = data.draw(
        st.sampled_from(
            [("jars", "state"), ("jars", "beans"), ("jars", "note"), ("jars", "touched_at"), ("labels", "word")]
        )
    )
    connection = sqlite3.connect(path)
    keys = {"jars": "id", "labels": "jar_id, number"}[table]
    key = data.draw(st.sampled_from(connection.execute(f"SELECT {keys} FROM {table} ORDER BY {keys}").fetchall()))
    connection.close()
    new = "beans + 1" if column == "beans" else f"coalesce({column}, '') || '!'"
    assert tamper(path, f"UPDATE {table} SET {column} = {new} WHERE ({keys}) = ({', '.join('?' * len(key))})", *key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanoclaw_store.verification.ROWS_AT_ONCE", at_once)
        report = verify(path)
    assert report.first_broken is None
    (finding,) = report.findings
    assert finding.startswith(f"pantry: table {table}: row ")
    assert all(repr(part) in finding for part in key)
    assert f"column {column} is " in finding


@HYPOTHESIS
@given(steps=STEPS)
def test_a_row_too_many_and_a_row_too_few_are_found(histories, steps):
    """The comparison goes in both directions."""
    path = histories.write([("label", "a", 9), *steps])
    tamper(path, "INSERT INTO jars VALUES ('z', 'OPEN', 0, NULL, 'x')")
    tamper(path, "DELETE FROM labels WHERE jar_id = 'a'")
    findings = verify(path).findings
    assert "pantry: table jars: row id='z' is not in the log" in findings
    assert any(
        finding.startswith("pantry: table labels: row jar_id='a', number=")
        and finding.endswith(" of the log is missing")
        for finding in findings
    ) or not any(step[:2] == ("label", "a") for step in steps)


def test_a_log_cut_off_at_its_end_shows_by_the_state(histories):
    """The chain of what is left is whole, but the tables know more than it says."""
    path = histories.write([("bean", "a"), ("bean", "a")])
    tamper(path, "DELETE FROM pantry_log WHERE seq = 3")
    report = verify(path)
    assert report.first_broken is None
    assert report.findings == ("pantry: table jars: row id='a': column beans is 2, by the log 1",)


FORGED = [
    ({"epoch": 2}, "is of epoch 2 where epoch 1 was not ended by open_epoch"),
    ({"epoch": 1, "action": "open_epoch"}, "opens epoch 1 after epoch 1"),
    ({"seq": 5}, "follows row 1: 3 rows are missing between them"),
]


@pytest.mark.parametrize(("forged", "what"), FORGED)
async def test_a_row_that_is_well_hashed_but_out_of_order_is_found(database, pantry, forged, what):
    """An epoch that nobody opened, one that does not rise, a number left out: hash and prev_hash are right."""
    head = await database.write(lambda tx: pantry.new_jar(tx, "a"))
    texts = dict.fromkeys(set(LOG_COLUMNS) - {"seq", "epoch", "prev_hash", "hash", "change", "created_at"}, "")
    row = {"epoch": 1, "seq": 2, "prev_hash": head.hash, "changes": (), "facts": {}, **texts}
    row |= {"action": "bean", "principal": "x", **forged}
    await database.write(lambda tx: pantry.log._write(tx, **row))
    broken = verify(pantry.path).first_broken
    assert broken == (row["epoch"], row["seq"], what)


async def test_a_live_database_is_seen_at_one_moment(database, pantry):
    """Services go on writing while it is verified; log and tables are of one snapshot."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    stop = False

    async def write() -> int:
        beans = 0
        while not stop:
            beans = await database.write(pantry.bean)
        return beans

    writing = asyncio.ensure_future(write())
    for _ in range(20):
        report = await asyncio.to_thread(verify, pantry.path)
        assert report.ok, report.findings
    stop = True
    assert await writing > 0
    assert verify(pantry.path).slices[0].rows == database.read(pantry.log.head).seq


@pytest.fixture
def meanwhile(monkeypatch):
    """`meanwhile(act)`: act runs once, after a verification has read the log and before it reads the tables."""

    def arrange(act) -> None:
        acts, changes = [act], Walk.changes

        def then_act(walk):
            yield from changes(walk)
            while acts:
                acts.pop()()

        monkeypatch.setattr(Walk, "changes", then_act)

    return arrange


def _add_bean(pantry, path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("BEGIN IMMEDIATE")
    pantry.bean(Tx(connection, utc_now))
    connection.execute("COMMIT")
    connection.close()


async def test_what_is_committed_between_log_and_tables_is_not_seen(database, pantry, meanwhile):
    """One snapshot for both: else a live database would seem to hold more than its log."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    meanwhile(lambda: _add_bean(pantry, pantry.path))
    report = verify(pantry.path)
    assert (report.findings, report.slices[0].rows) == ((), 1)
    assert verify(pantry.path).slices[0].rows == 2


def test_a_file_that_comes_to_life_while_it_is_verified_is_verified_again(histories, pantry, meanwhile):
    """It was opened without locks, for it had no WAL; somebody wrote, so what was read may be torn."""
    path = histories.write([("bean", "a")])
    meanwhile(lambda: _add_bean(pantry, path))
    report = verify(path)
    assert (report.findings, report.slices[0].rows) == ((), 3)


async def test_a_backup_is_verified_without_a_trace(database, pantry, tmp_path):
    """A copy without a WAL is opened immutable: no file is made beside it, so it may lie on a read-only medium."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    await database.close()
    folder = tmp_path / "backup"
    folder.mkdir()
    shutil.copy(pantry.path, folder / "copy.db")
    before = (folder / "copy.db").read_bytes()
    report = verify(folder / "copy.db")
    assert (report.ok, report.slices[0].rows) == (True, 1)
    assert [path.name for path in folder.iterdir()] == ["copy.db"]
    assert (folder / "copy.db").read_bytes() == before


async def test_a_copy_with_its_wal_is_read_whole(database, pantry, tmp_path):
    """What is in the WAL only counts."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    for suffix in ("", "-wal"):
        shutil.copy(f"{pantry.path}{suffix}", tmp_path / f"copy.db{suffix}")
    assert verify(tmp_path / "copy.db").slices[0].rows == 1


async def test_an_open_connection_can_be_verified(database, pantry):
    """As the VerifyLog RPC may do inside its own snapshot."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    connection = pantry.peek()
    assert verify(connection).ok
    assert connection.execute("SELECT 1 AS one").fetchone()["one"] == 1
    connection.close()


def test_what_is_no_database_of_ours_is_refused(tmp_path, histories):
    """No file, no database, another program's, or without the slice asked for: an error, never an empty yes."""
    (tmp_path / "text.db").write_text("hello " * 1000)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    for name in ("absent.db", "text.db", "other.db"):
        with pytest.raises(NanoclawError, match="STORE_UNREADABLE"):
            verify(tmp_path / name)
    with pytest.raises(NanoclawError, match="has no slice kitchen"):
        verify(histories.empty, only="kitchen")
    tamper(histories.empty, "DELETE FROM store_slices")
    with pytest.raises(NanoclawError, match="STORE_UNREADABLE"):
        verify(histories.empty)


def test_a_slice_struck_off_the_list_is_missed(histories, pantry):
    """Its tables belong to nobody then."""
    path = histories.write([("bean", "a")])
    folder = pantry.folder / "other"
    folder.mkdir()
    (folder / "0001_start.sql").write_text("CREATE TABLE pots (id TEXT PRIMARY KEY NOT NULL) STRICT;\n")
    migrate(path, Slice("kitchen", frozenset({"pots"}), folder))
    assert verify(path).ok
    tamper(path, "DELETE FROM store_slices WHERE slice = 'pantry'")
    assert "table pantry_log belongs to no slice" in verify(path).findings


def test_a_table_struck_off_the_fold_is_missed(histories):
    """The log has images of it that fit nowhere."""
    path = histories.write([("label", "a", 1)])
    tamper(path, "UPDATE store_slices SET folded = ?", json.dumps({"jars": ["id"]}))
    (finding,) = verify(path).findings
    assert "its change does not fit the state tables" in finding
    assert "labels" in finding


def test_a_column_of_a_later_migration_has_its_default_in_older_images(histories, pantry):
    """ALTER TABLE … ADD COLUMN … DEFAULT fills old rows, of which the log says nothing."""
    path = histories.write([("bean", "a")])
    (pantry.migrations / "0002_lid.sql").write_text("ALTER TABLE jars ADD COLUMN lid TEXT NOT NULL DEFAULT 'tin';\n")
    migrate(path, pantry.slice)
    assert verify(path).ok
    tamper(path, "UPDATE jars SET lid = 'gold'")
    assert verify(path).findings == ("pantry: table jars: row id='a': column lid is 'gold', by the log 'tin'",)


@pytest.mark.parametrize(
    "change",
    [
        '{"set":[[1,2,3]]}',
        '{"set":[["jars",{"no":1},{}]]}',
        '{"set":[["jars",{"id":"z"},{"no":1}]]}',
        '{"set":[["jars",{"id":"z"},null]]}',
        '{"set":[["jars",{"id":"z"},7]]}',
        '{"set":[["jars",{"id":[]},{}]]}',
        '{"set":[["pots",{"id":"z"},{}]]}',
        '{"set":[["jars",',
    ],
)
@pytest.mark.parametrize("at_once", [1, 250_000])
async def test_a_change_that_does_not_fit_is_a_finding(database, pantry, monkeypatch, change, at_once):
    """Well chained nonsense is named once, and never ends the verification."""
    await database.write(lambda tx: [pantry.new_jar(tx, jar) for jar in "abc"])
    monkeypatch.setattr("nanoclaw_store.log.canonical", lambda value: change)
    monkeypatch.setattr("nanoclaw_store.verification.ROWS_AT_ONCE", at_once)
    await database.write(lambda tx: pantry.log.append(tx, action="x", principal="p"))
    report = verify(pantry.path)
    assert report.first_broken is None
    assert report.slices[0].rows == 4
    named = [finding for finding in report.findings if "its change does not fit the state tables" in finding]
    assert len(named) == 1
    assert named[0].startswith("pantry: row 4 of epoch 1: ")


def test_rotten_bytes_are_a_finding(histories):
    """Text that is no UTF-8, another type, a page overwritten: reported, not raised."""
    steps = [("note", jar, "x" * 8) for jar in "abcde"] * 40
    path = histories.write(steps)
    tamper(path, "UPDATE pantry_log SET reason = CAST(x'ff00fe' AS TEXT) WHERE seq = 7")
    assert "pantry: unreadable after row 6" in verify(path).findings[0]
    path = histories.write(steps)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 4096 * 4)
    report = verify(path)
    assert not report.ok
    assert any("malformed" in finding for finding in report.findings)


def test_findings_are_bounded(histories):
    """A report stays readable, and says that there is more."""
    path = histories.write([("bean", "a")])
    connection = sqlite3.connect(path)
    connection.executemany("INSERT INTO jars VALUES (?, 'OPEN', 0, NULL, 'x')", [(f"z{n}",) for n in range(500)])
    connection.commit()
    connection.close()
    report = verify(path)
    assert len(report.findings) == 101
    assert report.findings[-1] == "pantry: and more"


def test_invariants_raises_with_the_findings(histories):
    """What a test of any service calls at its end."""
    path = histories.write([("bean", "a")])
    invariants(path)
    tamper(path, "UPDATE jars SET beans = 9")
    with pytest.raises(AssertionError, match="column beans is 9, by the log 1"):
        invariants(path)
