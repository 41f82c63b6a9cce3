"""assert_schema_matches: tables.py and the migrations can't drift apart unseen."""

from dataclasses import replace

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Text

from nanoclaw_store import log_ddl
from nanoclaw_store.testing import assert_schema_matches


def test_what_agrees_passes(pantry):
    """The pantry's own tables, with a column for each type in use."""
    assert_schema_matches(pantry.slice, pantry.metadata)


@pytest.mark.parametrize(
    ("before", "after", "finding"),
    [
        ("note TEXT,", "note TEXT, more TEXT,", "jars: ('more', 'TEXT', False, False) only in the migrations"),
        ("note TEXT,", "", "jars: ('note', 'TEXT', False, False) only in tables.py"),
        ("beans INTEGER NOT NULL", "beans TEXT NOT NULL", "jars: ('beans', 'INTEGER', True, False) only in tables.py"),
        ("note TEXT,", "note TEXT NOT NULL,", "jars: ('note', 'TEXT', False, False) only in tables.py"),
        ("PRIMARY KEY (jar_id, number)", "PRIMARY KEY (jar_id)", "labels: ('number', 'INTEGER', True, True) only in"),
        ("note TEXT,\n    touched_at TEXT NOT NULL", "touched_at TEXT NOT NULL,\n    note TEXT", "jars: the order of"),
        ("traps (how TEXT NOT NULL) STRICT", "traps (how TEXT NOT NULL)", "traps: is not STRICT"),
        ("CREATE TABLE traps", "CREATE TABLE pots (id TEXT) STRICT;\nCREATE TABLE traps", "pots: made by a migration"),
        ("hash TEXT NOT NULL CHECK (length(hash) = 64)\n", "hash TEXT NOT NULL\n", "pantry_log: pantry_log is not as"),
        ("CREATE TRIGGER pantry_log_no_delete BEFORE DELETE", "CREATE TRIGGER pantry_log_no_delete AFTER DELETE",
         "pantry_log: pantry_log_no_delete is not as log_ddl has it"),
    ],
)  # fmt: skip
def test_every_difference_is_named(pantry, before, after, finding):
    """Column, type, NOT NULL, key, order, STRICT, table, log."""
    sql = pantry.start.read_text()
    assert before in sql
    pantry.start.write_text(sql.replace(before, after, 1))
    with pytest.raises(AssertionError) as caught:
        assert_schema_matches(pantry.slice, pantry.metadata)
    assert finding in str(caught.value)


def test_a_unique_column_must_be_unique_on_the_disk(pantry):
    """unique=True in tables.py is a promise."""
    pantry.jars.c.note.unique = True
    with pytest.raises(AssertionError, match=r"jars: note is unique in tables\.py only"):
        assert_schema_matches(pantry.slice, pantry.metadata)


def test_a_folded_table_needs_its_key(pantry):
    """Else two rows would be one to the fold."""
    pantry_slice = replace(pantry.slice, folded={"labels": ("jar_id",)})
    with pytest.raises(AssertionError, match="labels: folded by jar_id, which is not a key"):
        assert_schema_matches(pantry_slice, pantry.metadata)


def test_tables_of_tables_py_and_of_the_slice_are_the_same(pantry):
    """A table forgotten in SLICE could not be written at run time."""
    Table("pots", pantry.metadata, Column("id", Text, primary_key=True))
    with pytest.raises(AssertionError, match=r"pots: in tables.py, not in the slice"):
        assert_schema_matches(pantry.slice, pantry.metadata)


def test_no_foreign_key_leaves_the_slice(pantry):
    """The owner is asked by RPC."""
    sql = pantry.start.read_text()
    pantry.start.write_text(sql.replace("how TEXT NOT NULL)", "how TEXT NOT NULL REFERENCES gov_tasks (id))", 1))
    with pytest.raises(AssertionError, match="traps: a foreign key leaves the slice, to gov_tasks"):
        assert_schema_matches(pantry.slice, pantry.metadata)


def test_the_tables_of_a_log_and_of_requests_match_their_sql(pantry):
    """LogTable and log_ddl, request_table and requests_ddl say the same: the pantry uses both as they stand."""
    assert log_ddl("pantry_log") in pantry.start.read_text()
    assert {column.name for column in pantry.log.table.c} >= {"seq", "epoch", "change", "prev_hash", "hash"}
    metadata = MetaData()
    Table("x", metadata, Column("id", Integer, ForeignKey("y.id")))
    with pytest.raises(AssertionError, match=r"x: in tables\.py"):
        assert_schema_matches(pantry.slice, metadata)
