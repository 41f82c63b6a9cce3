"""What databases answer: values of every type and size, errors, connections that are cut or fall silent at any byte."""

import asyncio
import re
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import outcomes
import pytest
from cutting import CUT, HANG, PASS, Cutting
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from planted import ECHOES
from postgres import BIN, postgres

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import breaker

PASSWORD = "pl4nted-password+of/the-broker=="
LOGGED_IN = b"Z\x00\x00\x00\x05I"
TELL = [f"tell({number})" for number in range(len(ECHOES))]
CELLS = {
    "lite": [
        "NULL", "7", "9223372036854775807", "1e999", "-1e999", "0.1", "x'ff00'", "CAST(x'ff' AS TEXT)",
        "char(0, 55296)",
        "zeroblob(100000)", "zeroblob(20000000)", "zeroblob(999999999)", "hex(zeroblob(3000000))", "json('{')",
        "printf('%.*c', 60000, 'x')", "abs(-9223372036854775807 - 1)", "randomblob(9)", "load_extension('x')",
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n)",
    ],
    "far": [
        "NULL", "7", "true", "'NaN'::float8", "'-infinity'::float4", "'NaN'::numeric", "1e300::numeric",
        "'12.50'::money",
        "'infinity'::timestamptz", "'20000-01-01'::timestamp", "'0044-03-15 BC'::date", "'24:00'::time",
        "'12:00:00+15:59'::timetz", "interval '178000000 years -3 days'", "'\\xff00'::bytea", "array[1, null]",
        "array[[1, 2], [3, 4]]", "row(1, 'x', row(2, 'NaN'::float8))", "parts", "array[parts]", "int4range(1, 5)",
        "'empty'::daterange", "point(1, 'NaN')", "polygon '((0,0),(1,1))'", "'1.2.3.4/8'::inet", "B'101'",
        "'a'::\"char\"",
        "'{\"a\": 1e999}'::json", "'{\"a\": [\"\\u00e9\"]}'::jsonb", "'x & y'::tsquery", "gen_random_uuid()", "1 / 0",
        "repeat('x', 60000)", "repeat('x', 9000000)", "repeat('x', 500000000)", "array_fill(1, array[3000])",
        "pg_sleep(0)", "pg_sleep(3)", "pg_terminate_backend(pg_backend_pid())", "'x'::regclass", "current_setting('x')",
        *TELL,
    ],
}  # fmt: skip
"""Expressions, by database."""


@dataclass(frozen=True)
class Statement:
    """write: of the row `key`. at, how: what the proxy before PostgreSQL does."""

    database: str
    cells: list[str]
    rows: int = 1
    write: bool = False
    at: int = 0
    how: str = PASS

    def sql(self, key: str) -> str:
        shown = ", ".join(f"{cell} AS x" for cell in self.cells)  # columns of the same name, too
        if self.write:
            return f"INSERT INTO parts VALUES ('{key}') RETURNING {shown}"
        source = {
            "lite": f"WITH RECURSIVE g(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g LIMIT {self.rows})",
            "far": f"WITH g AS (SELECT generate_series(1, {self.rows}))",
        }[self.database]
        rows = "FROM g" if "parts" not in shown else "FROM g, (SELECT * FROM parts LIMIT 1) AS parts"
        return f"{source} SELECT {shown} {rows}"


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    database = draw(st.sampled_from(sorted(CELLS)))
    cells = draw(st.lists(st.sampled_from(CELLS[database]), min_size=1, max_size=3))
    how = draw(st.sampled_from([PASS, PASS, PASS, CUT, CUT, CUT, HANG]))
    rows = draw(st.sampled_from([1, 3, 600, 200_000]))
    return Statement(database, cells, rows, draw(st.booleans()), draw(st.integers(0, 900)), how)


@dataclass
class Databases:
    """PostgreSQL behind a proxy, and a SQLite file; `parts` in both."""

    folder: Path
    url: str
    proxy: Cutting = field(default_factory=lambda: Cutting(LOGGED_IN))

    @property
    def behind(self) -> Path:
        return Path(self.url.partition("host=")[2])

    async def outside(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url, password=PASSWORD)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def has(self, database: str, key: str) -> bool:
        """Whether the row is there."""
        sql = f"SELECT count(*) FROM parts WHERE name = '{key}'"
        if database == "lite":
            with closing(sqlite3.connect(self.folder / "lite.db")) as lite:
                return bool(lite.execute(sql).fetchone()[0])
        connection = await asyncpg.connect(self.url, password=PASSWORD)
        try:
            return bool(await connection.fetchval(sql))
        finally:
            await connection.close()

    def configure(self, home: Path) -> None:
        (home / "config").mkdir()
        (home / "config" / "providers.toml").write_text(
            f'[sql.databases.far]\nurl = "postgresql://owner@/postgres?host={self.folder}"\nseconds = 0.6\n'
            f'[sql.databases.lite]\nurl = "sqlite://{self.folder}/lite.db"\nseconds = 0.3\n'
        )
        (home / "secrets" / "broker").mkdir()
        path = home / "secrets" / "broker" / "sql_far_password"
        path.touch(mode=0o600)
        path.write_text(PASSWORD)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if BIN is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres(PASSWORD) as url:
        yield url


@pytest.fixture
async def databases(server: str) -> AsyncIterator[Databases]:
    """One of PostgreSQL's functions gives the broker's password away, in every way."""
    folder = Path(tempfile.mkdtemp(prefix="nc-sql-", dir="/tmp"))
    made = Databases(folder, server)
    try:
        with closing(sqlite3.connect(folder / "lite.db")) as lite:
            lite.execute("CREATE TABLE parts (name TEXT PRIMARY KEY)")
        said = ", ".join("'" + tell(PASSWORD).replace("'", "''") + "'" for tell in ECHOES.values())
        await made.outside(
            "CREATE TABLE parts (name text PRIMARY KEY); INSERT INTO parts VALUES ('bolt');"
            "CREATE FUNCTION tell(which int) RETURNS int LANGUAGE plpgsql AS"
            f" $$BEGIN RAISE EXCEPTION '% %', repeat('x', 960), (ARRAY[{said}])[which + 1]; END$$"
        )
        async with AsyncExitStack() as stack:
            name = ".s.PGSQL.5432"
            await stack.enter_async_context(made.proxy.serving(folder / name, made.behind / name))
            yield made
    finally:
        shutil.rmtree(folder)


async def test_no_answer_of_a_database_breaks_a_call_or_makes_believe(
    start: Any, home: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed: surely not done. Done: surely. Unknown: only where the connection broke or was silent."""
    monkeypatch.setattr(breaker, "FAILURES", 10**6)
    databases.configure(home)
    limits = {f"{kind}_l{level}": 10**6 for kind in ("rate", "soft", "hard") for level in (1, 2)}
    async with start(reconcile_seconds=3600, **limits) as broker:
        await broker.grant("sql", pb.ACCESS_LEVEL_L2)
        loop, numbers = asyncio.get_running_loop(), iter(range(10**9))

        async def run(asked: Statement, key: str) -> tuple[pb.CallResponse, bool]:
            databases.proxy.at, databases.proxy.how = asked.at, asked.how
            params = {"database": asked.database, "sql": asked.sql(key)}
            answer = await broker.call("sql", "execute" if asked.write else "query", params)
            return answer, await databases.has(asked.database, key)

        tries = settings.default.max_examples // 10  # each is a whole call, and some wait

        @settings(max_examples=tries, suppress_health_check=list(HealthCheck))
        @given(statements())
        @example(Statement("far", ["repeat('x', 500000000)"]))
        @example(Statement("far", ["repeat('x', 9000000)"], write=True))
        @example(Statement("far", ["'20000-01-01'::timestamp"], write=True))
        @example(Statement("far", ["pg_terminate_backend(pg_backend_pid())"]))
        @example(Statement("far", ["7"], write=True, at=300, how=HANG))
        @example(Statement("far", [TELL[0]]))
        @example(Statement("lite", ["zeroblob(999999999)"], rows=600))
        @example(Statement("lite", ["CAST(x'ff' AS TEXT)", "1e999", "1e999"]))
        @example(Statement("lite", ["zeroblob(100000)"], write=True))
        def never(asked: Statement) -> None:
            key = f"k{next(numbers)}"
            answer, there = asyncio.run_coroutine_threadsafe(run(asked, key), loop).result(20)
            outcomes.check(answer, PASSWORD, mutating=asked.write)
            if answer.status == pb.CALL_STATUS_EXECUTED:
                assert there is asked.write, answer
            elif answer.status == pb.CALL_STATUS_FAILED:
                assert not there, answer
            else:
                cut = asked.database == "far" and (asked.how != PASS or re.search("terminate", str(asked.cells)))
                assert cut or answer.message.startswith("no reply in time"), answer

        await asyncio.to_thread(never)
