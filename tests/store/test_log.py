"""The log: one row per fact, hashed over the one before; cursors; epochs."""

import hashlib
import sqlite3

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store import Change, Head, log_ddl, prepare, verify
from nanoclaw_store.log import NO_HASH, row_text

TEXTS = (
    "action", "attempt_id", "change", "created_at", "from_state", "policy_version", "principal", "reason",
    "request_ref", "subject", "task_id", "to_state", "trace_id", "via",
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {name: st.text() for name in TEXTS} | {name: st.integers(0, 2**53 - 1) for name in ("epoch", "seq")}
    )
)
def test_the_hand_made_row_text_is_the_canonical_one(row):
    """Put together by hand for speed; equal to canonical() and to RFC 8785 for every text and number."""
    assert row_text(**row) == canonical(row) == rfc8785.dumps(row).decode()


async def test_a_row_is_chained_to_the_one_before(database, pantry):
    """hash = SHA-256 over prev_hash, a newline and the canonical row without its hashes: recomputed by hand."""
    first = await database.write(lambda tx: pantry.new_jar(tx, "a", note='"käse"\n☃'))
    second = await database.write(lambda tx: pantry.new_jar(tx, "b", weather="fair"))
    rows = [dict(row) for row in database.read(lambda tx: pantry.log.after(tx, 0, 10))]
    assert [Head(row["epoch"], row["seq"], row["hash"]) for row in rows] == [first, second]
    for row, before in zip(rows, (NO_HASH, first.hash), strict=True):
        hash_ = row.pop("hash")
        assert row.pop("prev_hash") == before
        assert hash_ == hashlib.sha256((before + "\n" + canonical(row)).encode()).hexdigest()
    assert rows[1]["change"] == (
        '{"set":[["jars",{"id":"b"},{"beans":0,"id":"b","note":null,"state":"OPEN","touched_at":"'
        + rows[1]["created_at"]
        + '"}]],"weather":"fair"}'
    )


async def test_an_empty_log_has_a_head(database, pantry):
    """Epoch 1, nothing yet."""
    assert database.read(pantry.log.head) == Head(1, 0, NO_HASH)


async def test_the_head_is_read_inside_the_transaction(database, pantry, in_one_batch):
    """A row that was rolled back leaves no gap, though its number had been given out."""

    def refuse(tx):
        assert pantry.new_jar(tx, "x").seq == 2
        raise ValueError("no")

    results = await in_one_batch(
        database, lambda tx: pantry.new_jar(tx, "a"), refuse, lambda tx: pantry.new_jar(tx, "b")
    )
    assert [results[0].seq, results[2].seq] == [1, 2]
    assert verify(pantry.path).ok


async def test_the_database_refuses_a_fork(database, pantry):
    """Two rows can't follow the same one: prev_hash is UNIQUE."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    connection = pantry.peek()
    columns = ", ".join(row["name"] for row in connection.execute("PRAGMA table_info(pantry_log)"))
    fork = columns.replace("seq", "seq + 5", 1)
    with pytest.raises(sqlite3.IntegrityError, match="prev_hash"):
        connection.execute(f"INSERT INTO pantry_log ({columns}) SELECT {fork} FROM pantry_log")
    connection.close()


async def test_rows_come_in_pages(database, pantry):
    """after() continues where a reader stopped."""
    await database.write(lambda tx: [pantry.new_jar(tx, jar) for jar in "abcde"])
    pages = [database.read(lambda tx, seq=seq: pantry.log.after(tx, seq, 2)) for seq in (0, 2, 4, 5)]
    assert [[row["seq"] for row in page] for page in pages] == [[1, 2], [3, 4], [5], []]


async def test_facts_do_not_hide_changes(database, pantry):
    """The member `set` is the fold's."""
    with pytest.raises(ValueError, match="set"):
        await database.write(lambda tx: pantry.log.append(tx, action="x", principal="p", facts={"set": []}))


@pytest.mark.parametrize("cursor", [(0, 0), (1, 0), (1, 1), (1, 2)])
async def test_a_cursor_on_a_row_of_the_log_is_good(database, pantry, cursor):
    """The beginning, or any row that is there."""
    await database.write(lambda tx: [pantry.new_jar(tx, jar) for jar in "ab"])
    database.read(lambda tx: pantry.log.check_cursor(tx, *cursor))


@pytest.mark.parametrize("cursor", [(1, 3), (2, 1), (0, 1), (2, 0), (1, -1)])
async def test_a_cursor_beyond_the_head_or_of_another_epoch_is_refused(database, pantry, cursor):
    """Never a silent wait for rows that will not come, or that are others."""
    await database.write(lambda tx: [pantry.new_jar(tx, jar) for jar in "ab"])
    with pytest.raises(NanoclawError) as caught:
        database.read(lambda tx: pantry.log.check_cursor(tx, *cursor))
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "CURSOR_INVALID")
    assert caught.value.facts["head_seq"] == "2"


async def test_a_restore_opens_an_epoch_that_voids_what_was_abandoned(database, open_database, pantry, tmp_path):
    """Restored to an older copy, the log names the abandoned head; who had read beyond the copy is told so, even when
    the new rows have reached the same numbers; who had not goes on."""
    await database.write(lambda tx: [pantry.new_jar(tx, jar) for jar in "ab"])
    copy = sqlite3.connect(tmp_path / "copy.db")
    source = pantry.peek()
    source.backup(copy)
    source.close()
    copy.close()
    abandoned = await database.write(lambda tx: pantry.new_jar(tx, "lost"))
    await database.close()
    (tmp_path / "copy.db").rename(pantry.path)
    restored = await open_database()
    head = await restored.write(
        lambda tx: pantry.log.open_epoch(tx, abandoned, principal="operator:ana", reason="fire")
    )
    assert (head.epoch, head.seq) == (2, 3)
    assert (await restored.write(lambda tx: pantry.new_jar(tx, "c"))).epoch == 2
    row = restored.read(lambda tx: pantry.log.after(tx, 2, 1))[0]
    assert (row["action"], abandoned.hash in row["change"]) == ("open_epoch", True)
    restored.read(lambda tx: pantry.log.check_cursor(tx, 1, 2))
    restored.read(lambda tx: pantry.log.check_cursor(tx, 2, 4))
    with pytest.raises(NanoclawError, match="CURSOR_INVALID"):
        restored.read(lambda tx: pantry.log.check_cursor(tx, abandoned.epoch, abandoned.seq))
    assert verify(pantry.path).ok


async def test_an_epoch_rises_above_the_abandoned_one(database, pantry):
    """A copy from before an earlier restore must not reuse that restore's epoch."""
    head = await database.write(lambda tx: pantry.log.open_epoch(tx, Head(4, 9, "f" * 64), principal="operator:ana"))
    assert (head.epoch, head.seq) == (5, 1)
    assert verify(pantry.path).ok


async def test_a_deleted_row_is_a_change_too(database, pantry):
    """values None: the row is gone from table and fold alike."""
    await database.write(lambda tx: pantry.new_jar(tx, "a"))
    jars = pantry.jars
    gone = prepare(jars.delete().where(jars.c.id == "a"))

    def remove(tx):
        tx.run(gone)
        pantry.log.append(tx, action="remove", principal="operator:ana", changes=[Change("jars", {"id": "a"}, None)])

    await database.write(remove)
    assert verify(pantry.path).ok
    assert database.read(lambda tx: tx.all(prepare(select(jars)))) == []


def test_log_ddl_names_its_table_throughout():
    """The text is for any slice."""
    assert log_ddl("x_log").count("x_log") == 7
