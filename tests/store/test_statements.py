"""Statements: compiled once, constants in the text, parameters by name, rows as they lie on the disk."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

from nanoclaw_store import UtcText, prepare

METADATA = MetaData()
JARS = Table(
    "jars",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("state", Text),
    Column("beans", Integer),
    Column("at", UtcText),
)


def test_constants_are_part_of_the_text():
    """What is known at import is no parameter: not in where, in_, values, set_ or limit."""
    statement = prepare(
        select(JARS.c.id)
        .where(JARS.c.state == "O'PEN", JARS.c.beans.in_([1, 2]), JARS.c.id == bindparam("jar"))
        .limit(5)
    )
    assert statement.names == {"jar"}
    assert "'O''PEN'" in statement.sql
    assert "IN (1, 2)" in statement.sql
    assert statement.bind({"jar": "a"}) == ("a",)
    assert prepare(insert(JARS).values(id=bindparam("jar"), state=None, beans=3)).names == {"jar"}


def test_a_moment_among_the_constants_becomes_its_text():
    """UtcText writes what the clock writes."""
    statement = prepare(select(JARS.c.id).where(JARS.c.at < datetime(2030, 1, 2, tzinfo=UTC)))
    assert "'2030-01-02T00:00:00.000000Z'" in statement.sql


def test_values_are_bound_in_the_order_of_the_text():
    """A name may stand in several places."""
    statement = prepare(
        update(JARS)
        .where(JARS.c.id == bindparam("jar"), JARS.c.beans < bindparam("most"))
        .values(beans=func.min(JARS.c.beans + bindparam("more"), bindparam("most")))
    )
    assert statement.sql.count("?") == 4
    assert statement.bind({"jar": "a", "most": 9, "more": 2}) == (2, 9, "a", 9)


def test_a_plain_insert_or_update_takes_the_named_columns():
    """`columns` chooses; without it all are taken."""
    assert prepare(insert(JARS)).names == {"id", "state", "beans", "at"}
    assert prepare(insert(JARS), ["id", "beans"]).names == {"id", "beans"}
    assert prepare(update(JARS).where(JARS.c.id == bindparam("jar")), ["state"]).names == {"jar", "state"}


@pytest.mark.parametrize("params", [{}, {"jar": "a", "jug": "b"}, {"jug": "b"}])
def test_a_missing_or_unknown_parameter_is_an_error(params):
    """Neither NULL by accident nor a typo that is ignored."""
    with pytest.raises(TypeError, match=r"missing|unknown"):
        prepare(select(JARS).where(JARS.c.id == bindparam("jar"))).bind(params)


def test_a_parameter_may_have_a_default():
    """bindparam("n", 5) may be left out or given."""
    statement = prepare(select(JARS).where(JARS.c.beans > bindparam("n", 5)))
    assert (statement.bind({}), statement.bind({"n": 6})) == ((5,), (6,))


def test_what_needs_sqlalchemy_at_run_time_is_refused_at_import():
    """Defaults of Python and lists of unknown length would silently not work."""
    with_default = Table("t", MetaData(), Column("id", Text, primary_key=True), Column("n", Integer, default=3))
    with pytest.raises(ValueError, match="default of Python"):
        prepare(insert(with_default), ["id"])
    with pytest.raises(ValueError, match="json_each"):
        prepare(select(JARS).where(JARS.c.id.in_(bindparam("jars", expanding=True))))


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "PRAGMA query_only = 0", "DELETE FROM jars"])
def test_raw_sql_is_refused(sql):
    """A unit can't end the transaction it runs in."""
    with pytest.raises(ValueError, match="only SELECT, INSERT, UPDATE and DELETE"):
        prepare(text(sql))


async def test_a_constant_lets_the_planner_use_a_partial_index(database, pantry):
    """WHERE state = 'OPEN' as a parameter could not match the index's own WHERE."""
    statement = prepare(select(pantry.jars.c.id).where(pantry.jars.c.state == "OPEN").order_by(pantry.jars.c.id))
    connection = pantry.peek()
    plan = " ".join(row["detail"] for row in connection.execute("EXPLAIN QUERY PLAN " + statement.sql))
    connection.close()
    assert "jars_open" in plan


async def test_returning_and_upsert_work_on_the_driver(database, pantry):
    """UPDATE … RETURNING claims in one statement; ON CONFLICT refers to the row that was refused."""
    jars = pantry.jars
    claim = prepare(
        update(jars)
        .where(jars.c.state == "OPEN", jars.c.id == bindparam("jar"))
        .values(state="SHUT")
        .returning(jars.c.id)
    )
    insertion = upsert(jars)
    put = prepare(
        insertion.on_conflict_do_update(index_elements=["id"], set_={"beans": jars.c.beans + insertion.excluded.beans})
    )
    jar = {"id": "a", "state": "OPEN", "beans": 2, "note": None, "touched_at": "now"}
    await database.write(lambda tx: (tx.run(put, **jar), tx.run(put, **jar)))
    assert await database.write(lambda tx: tx.one(pantry.get, jar="a")["beans"]) == 4
    assert await database.write(lambda tx: (tuple(tx.one(claim, jar="a")), tx.one(claim, jar="a"))) == (("a",), None)
    assert pantry.jars_on_disk() == ["a"]
