"""Databases of the operator's: reads that can only read, writes on record in the transaction that they are."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from postgres import BIN, postgres
from pydantic import SecretStr

from nanoclaw_broker.providers import ActionFailed, Effect, Environment, Refused, Result
from nanoclaw_broker.providers.sql import provider
from nanoclaw_broker.providers.sql.actions import MOST_ANSWER
from nanoclaw_broker.providers.sql.database import EFFECTS
from nanoclaw_broker.providers.sql.sqlite import Sqlite
from nanoclaw_core.errors import NanoclawError

PASSWORD = "correct horse battery"
EFFECT = Effect("01CALL", "developer", "t1")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its URL without a database."""
    if BIN is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres(PASSWORD) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> "Remote":
    """A database with a table `parts`, empty but for three rows."""
    if request.param == "sqlite":
        url = f"sqlite://{tmp_path}/far.db"
        sqlite3.connect(tmp_path / "far.db").close()
    else:
        url = request.getfixturevalue("server")
    remote = Remote(request.param, url, tmp_path / "home")
    await remote.reset()
    return remote


class Remote:
    """The provider over one database, and a look at it from outside."""

    def __init__(self, kind: str, url: str, home: Path, **options: Any) -> None:
        self.kind, self.url = kind, url
        config = {"sql": {"databases": {"far": {"url": url, **options}}}}
        self.environment = Environment(home, "", lambda name: SecretStr(PASSWORD), config)
        self.provider = provider(self.environment)

    def mark(self, number: int) -> str:
        return f"${number}" if self.kind == "postgres" else "?"

    async def outside(self, sql: str) -> list[tuple[Any, ...]]:
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.url.removeprefix("sqlite://"), isolation_level=None)) as connection:
                return connection.execute(sql).fetchall()
        import asyncpg

        connection = await asyncpg.connect(self.url, password=PASSWORD)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def reset(self) -> None:
        for sql in (
            "DROP TABLE IF EXISTS parts",
            f"DROP TABLE IF EXISTS {EFFECTS}",
            "CREATE TABLE parts (name text primary key, amount integer)",
            "INSERT INTO parts VALUES ('bolt', 1), ('nut', 2), ('screw', 3)",
        ):
            await self.outside(sql)

    async def run(self, action: str, sql: str, *values: Any, effect: Effect = EFFECT, **more: Any) -> Result:
        acting = self.provider.by_name[action]
        params = acting.params.model_validate({"database": "far", "sql": sql, "values": list(values), **more})
        acting.check(params)
        return await acting.execute(params, effect)

    async def verify(self, effect: Effect = EFFECT) -> Result | None:
        acting = self.provider.by_name["execute"]
        return await acting.verify(
            acting.params.model_validate({"database": "far", "sql": "DELETE FROM parts"}), effect
        )


async def test_rows_are_read_with_values_and_cut_to_what_was_asked_for(db: Remote) -> None:
    """Columns, rows, whether there were more."""
    sql = f"SELECT name, amount FROM parts WHERE amount >= {db.mark(1)} ORDER BY name"
    assert (await db.run("query", sql, 2)).data == {
        "columns": ["name", "amount"],
        "rows": [["nut", 2], ["screw", 3]],
        "affected": 0,
        "truncated": False,
    }
    cut = await db.run("query", sql, 1, max_rows=2)
    assert (len(cut.data["rows"]), cut.data["truncated"]) == (2, True)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH gone AS (DELETE FROM parts RETURNING name) SELECT * FROM gone",
        "SELECT 1; DELETE FROM parts",
        "SELECT set_config('transaction_read_only', 'off', false); DELETE FROM parts",
    ],
)
async def test_a_query_can_only_read(db: Remote, sql: str) -> None:
    """Whatever it smuggles in, the database itself refuses it."""
    with pytest.raises(ActionFailed):
        await db.run("query", sql)
    assert len(await db.outside("SELECT * FROM parts")) == 3


@pytest.mark.parametrize(
    ("action", "sql"),
    [
        ("query", "DELETE FROM parts"),
        ("query", "-- SELECT\nDROP TABLE parts"),
        ("query", "/* SELECT */ UPDATE parts SET amount = 0"),
        ("query", "EXPLAIN ANALYZE DELETE FROM parts"),
        ("execute", "DROP TABLE parts"),
        ("execute", "COMMIT"),
        ("execute", "SET ROLE other"),
        ("execute", "COPY parts TO PROGRAM 'sh'"),
        ("execute", "ATTACH DATABASE '/etc/passwd' AS other"),
        ("execute", "PRAGMA writable_schema = 1"),
        ("execute", "SELECT 1"),
        ("execute", f"DELETE FROM {EFFECTS}"),
        ("execute", ""),
    ],
)
async def test_only_statements_of_some_kinds_are_taken(db: Remote, action: str, sql: str) -> None:
    """Refused before anything is sent, with the kinds that there are."""
    with pytest.raises((Refused, ValueError)):
        await db.run(action, sql)


async def test_a_write_and_its_effect_are_committed_together(db: Remote) -> None:
    """The rows it changed are answered, and the effect is found by its key."""
    sql = f"UPDATE parts SET amount = amount + 1 WHERE name <> {db.mark(1)}"
    assert (await db.run("execute", sql, "nut")).data["affected"] == 2
    assert await db.outside(f"SELECT effect_key, outcome FROM {EFFECTS}") == [("01CALL", "done")]
    assert await db.verify() is not None
    assert await db.outside("SELECT sum(amount) FROM parts") == [(8,)]


async def test_a_write_that_fails_leaves_neither_rows_nor_effect(db: Remote) -> None:
    """The database's own words, and that it did not happen."""
    with pytest.raises(ActionFailed) as refused:
        await db.run("execute", "INSERT INTO parts VALUES ('plate', 9), ('bolt', 1)")
    assert refused.value.code == "SQL_REFUSED"
    assert not refused.value.in_trouble
    assert len(await db.outside("SELECT * FROM parts")) == 3
    assert await db.verify() is None


async def test_what_was_found_not_to_have_happened_can_not_happen_any_more(db: Remote) -> None:
    """The key is void: a request that was still under way is refused when it arrives."""
    assert await db.verify() is None
    with pytest.raises(ActionFailed) as refused:
        await db.run("execute", "DELETE FROM parts")
    assert refused.value.code == "EFFECT_VOID"
    assert len(await db.outside("SELECT * FROM parts")) == 3


async def test_a_key_that_is_used_twice_happens_once(db: Remote) -> None:
    """Even if the same call were sent twice."""
    await db.run("execute", "UPDATE parts SET amount = amount + 1")
    with pytest.raises(ActionFailed):
        await db.run("execute", "UPDATE parts SET amount = amount + 1")
    assert await db.outside("SELECT sum(amount) FROM parts") == [(9,)]


async def test_first_writers_that_come_at_once_all_get_through(db: Remote) -> None:
    """Each makes the effects' table if it is not there, and PostgreSQL tells those who come second in several ways."""
    effects = [Effect(f"01CALL{number}", "developer", "t1") for number in range(12)]
    writes = (db.run("execute", "UPDATE parts SET amount = 7", effect=effect) for effect in effects)
    assert {answer.data["affected"] for answer in await asyncio.gather(*writes)} == {3}


async def test_what_is_still_under_way_is_waited_for(db: Remote) -> None:
    """Verifying never says no to a write that then commits."""
    writing = asyncio.create_task(db.run("execute", "UPDATE parts SET amount = 7"))
    verified = await db.verify()
    if verified is None:
        with pytest.raises(ActionFailed):
            await writing
    else:
        await writing
    sevens = await db.outside("SELECT count(*) FROM parts WHERE amount = 7")
    assert sevens == [(3,) if verified else (0,)]


async def test_an_answer_is_cut_to_what_an_agent_takes(db: Remote) -> None:
    """Rows that do not fit are left out, and it says so; a write has happened all the same."""
    await db.run("execute", f"UPDATE parts SET name = name || {db.mark(1)}", "x" * 30_000)
    result = await db.run("query", "SELECT name FROM parts")
    assert (len(result.data["rows"]), result.data["truncated"]) == (1, True)
    assert MOST_ANSWER < 50_000


async def test_what_is_too_large_to_hold_is_refused_and_undone(db: Remote) -> None:
    """A value of 20 MB is not read into memory; a write that answers one has not happened."""
    huge = "hex(zeroblob(10000000))" if db.kind == "sqlite" else "repeat('x', 20000000)"
    code = "SQL_REFUSED" if db.kind == "sqlite" else "ANSWER_TOO_LARGE"
    for action, sql in (("query", f"SELECT {huge}"), ("execute", f"DELETE FROM parts RETURNING {huge}")):
        with pytest.raises(ActionFailed) as refused:
            await db.run(action, sql)
        assert refused.value.code == code
    assert len(await db.outside("SELECT * FROM parts")) == 3


async def test_a_value_that_can_not_be_read_is_said_to_be(server: str, tmp_path: Path) -> None:
    """A year after 9999 has no place in Python: the agent is told to cast it, and a write is undone."""
    db = Remote("postgres", server, tmp_path / "home")
    await db.reset()
    for action, sql in (("query", "SELECT {}"), ("execute", "DELETE FROM parts RETURNING {}")):
        with pytest.raises(ActionFailed) as failed:
            await db.run(action, sql.format("'20000-01-01'::timestamp"))
        assert failed.value.code == "ANSWER_NOT_READABLE"
    assert len(await db.outside("SELECT * FROM parts")) == 3
    rows = (await db.run("query", "SELECT parts, array[parts] FROM parts WHERE name = 'nut'")).data["rows"]
    assert rows == [[{"name": "nut", "amount": 2}, [{"name": "nut", "amount": 2}]]]


async def test_values_that_do_not_fit_are_the_callers_mistake(db: Remote) -> None:
    """Too many of them, or of another type."""
    with pytest.raises(ActionFailed) as refused:
        await db.run("query", f"SELECT {db.mark(1)}", "a", "b")
    assert refused.value.code in ("SQL_VALUES", "SQL_REFUSED")


async def test_a_database_that_is_not_there_is_in_trouble(tmp_path: Path) -> None:
    """It counts for the breaker, and nothing was sent."""
    for url in (f"sqlite://{tmp_path}/none.db", f"postgresql://owner@/postgres?host={tmp_path}"):
        with pytest.raises(ActionFailed) as failed:
            await Remote("sqlite", url, tmp_path / "home").run("query", "SELECT 1")
        assert (failed.value.code, failed.value.in_trouble) == ("DATABASE_UNREACHABLE", True)


async def test_a_statement_that_takes_too_long_is_ended(db: Remote, tmp_path: Path) -> None:
    """By the database, so that it does not go on when nobody waits any more."""
    short = Remote(db.kind, db.url, tmp_path / "home", seconds=0.2)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises((ActionFailed, TimeoutError)):
        await short.run("query", endless)


async def test_a_server_that_dies_in_a_write_leaves_it_unknown(server: str, tmp_path: Path) -> None:
    """A connection that broke is no answer: not ActionFailed, so that nobody pretends to know."""
    db = Remote("postgres", server, tmp_path / "home")
    await db.reset()
    await db.outside("CREATE OR REPLACE FUNCTION die() RETURNS int LANGUAGE sql AS"
                     " 'SELECT CASE WHEN pg_terminate_backend(pg_backend_pid()) THEN 1 ELSE 1 END'")  # fmt: skip
    with pytest.raises(Exception) as raised:
        await db.run("execute", "UPDATE parts SET amount = die()")
    assert not isinstance(raised.value, ActionFailed)
    assert await db.verify() is None


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("mysql://root@host/db", "postgresql://"),
        ("postgresql://owner:secret@host/db", "without a password"),
        ("sqlite:///{home}/store/nanoclaw.db", "outside NANOCLAW_HOME"),
        ("sqlite://relative.db", "absolute path"),
    ],
)
def test_a_database_that_can_not_be_one_stops_the_start(tmp_path: Path, url: str, wrong: str) -> None:
    """With the field and what it must be."""
    with pytest.raises(NanoclawError, match=r"sql\.databases\.far\.url") as refused:
        Remote("sqlite", url.replace("{home}", str(tmp_path)[1:]), tmp_path)
    assert wrong in str(refused.value)


def test_the_ledgers_line_shows_no_data() -> None:
    """Neither the statement nor its values."""
    acting = provider(Environment(Path("/nowhere"))).by_name["execute"]
    params = acting.params.model_validate({"database": "far", "sql": "delete from people", "values": ["ann"]})
    assert acting.summary(params) == "DELETE on far"


async def test_slow_statements_keep_nobody_else_from_a_thread(tmp_path: Path) -> None:
    """Names are resolved and logs are read on the loop's threads: forty reads that wait for a lock leave them free."""
    slow = Sqlite(tmp_path / "far.db", 30.0)
    with closing(sqlite3.connect(tmp_path / "far.db", isolation_level=None)) as locking:
        locking.execute("BEGIN EXCLUSIVE")
        reads = [asyncio.create_task(slow.read("SELECT count(*) FROM sqlite_schema", (), 1)) for _ in range(40)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await asyncio.to_thread(lambda: None)
        assert not any(read.done() for read in reads)
        locking.execute("ROLLBACK")
        assert {tuple(rows.rows) for rows in await asyncio.gather(*reads)} == {((0,),)}
