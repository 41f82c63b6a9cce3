"""A PostgreSQL database, by asyncpg; a connection for each call, for calls are few and must not share a session."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.base import ActionFailed
from nanoclaw_broker.providers.sql.database import DONE, EFFECTS, GIVEN_UP, VOID, Rows

if TYPE_CHECKING:
    from asyncpg import Connection, PostgresError

CONNECT_SECONDS = 5.0
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {EFFECTS} (effect_key text PRIMARY KEY, outcome text NOT NULL,"
    " made_at timestamptz NOT NULL DEFAULT now())"
)
_MARK = f"INSERT INTO {EFFECTS} (effect_key, outcome) VALUES ($1, $2) ON CONFLICT (effect_key) DO NOTHING"  # noqa: S608
_OUTCOME = f"SELECT outcome FROM {EFFECTS} WHERE effect_key = $1"  # noqa: S608


class Postgres:
    """See RemoteDatabase. password: None where the server asks for none."""

    def __init__(self, url: str, seconds: float, password: Callable[[], SecretStr | None]) -> None:
        self._url = url
        self._seconds = seconds
        self._password = password

    async def read(self, sql: str, values: Sequence[Any], most: int) -> Rows:
        """See RemoteDatabase."""
        async with self._connected() as connection, _answering(connection), connection.transaction(readonly=True):
            return await _fetch(connection, sql, values, most)

    async def write(self, sql: str, values: Sequence[Any], key: str, most: int) -> Rows:
        """See RemoteDatabase."""
        async with self._connected() as connection, _answering(connection):
            await self._have_effects(connection)
            async with connection.transaction():
                if await connection.execute(_MARK, key, DONE) != "INSERT 0 1":
                    raise ActionFailed(
                        "EFFECT_VOID", "the call was given up meanwhile; nothing was done", next_steps=(GIVEN_UP,)
                    )
                rows = await _fetch(connection, sql, values, most)
                if await connection.fetchval(_OUTCOME, key) != DONE:
                    raise ActionFailed(
                        "EFFECTS_TOUCHED",
                        f"the statement changes {EFFECTS}; nothing was done",
                        next_steps=("leave that table alone",),
                    )
                return rows

    async def happened(self, key: str) -> bool:
        """See RemoteDatabase. A write that is still under way holds the key: this waits for its end."""
        async with self._connected() as connection:
            await self._have_effects(connection)
            await connection.execute(_MARK, key, VOID)
            return bool(await connection.fetchval(_OUTCOME, key) == DONE)

    async def _have_effects(self, connection: "Connection[Any]") -> None:
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", EFFECTS):
            return
        from asyncpg import InsufficientPrivilegeError

        try:
            await connection.execute(_CREATE)
        except InsufficientPrivilegeError:
            step = f"have the database's owner run: {_CREATE}; GRANT SELECT, INSERT ON {EFFECTS} TO the broker's role"
            message = f"the table {EFFECTS} is not there, and the broker's role may not make it"
            raise ActionFailed("EFFECT_TABLE_MISSING", message, next_steps=(step,)) from None

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[Connection[Any]]":
        import asyncpg  # with the first call: a broker without databases does without it

        password = self._password()
        try:
            connection = await asyncpg.connect(
                self._url,
                password=password.get_secret_value() if password is not None else None,
                timeout=CONNECT_SECONDS,
                command_timeout=self._seconds,
                statement_cache_size=0,
                server_settings={
                    "application_name": "nanoclaw-broker",
                    "statement_timeout": str(int(self._seconds * 1000)),
                    "idle_in_transaction_session_timeout": str(int(self._seconds * 1000)),
                },
            )
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ActionFailed(
                "DATABASE_UNREACHABLE",
                f"the database could not be reached: {type(error).__name__}",
                next_steps=("send it again later", "ask an operator to look at the database and the broker's password"),
                in_trouble=True,
            ) from None
        try:
            yield connection
        finally:
            connection.terminate()


@asynccontextmanager
async def _answering(connection: "Connection[Any]") -> AsyncIterator[None]:
    """The database's own no is an answer; a connection that broke is none."""
    from asyncpg import InterfaceError, PostgresConnectionError, PostgresError

    try:
        yield
    except PostgresConnectionError:
        raise
    except PostgresError as error:
        if (error.sqlstate or "").startswith(("57P", "58", "XX")):  # it is shutting down, or broken
            raise
        raise _refused(error) from None
    except InterfaceError as error:
        if connection.is_closed():
            raise
        # values that do not fit never left
        raise ActionFailed("SQL_VALUES", excerpt(str(error), 500), next_steps=("mend the values",)) from None


def _refused(error: "PostgresError") -> ActionFailed:
    return ActionFailed(
        "SQL_REFUSED",
        excerpt(f"the database says: {error.args[0] if error.args else type(error).__name__}", 1000),
        next_steps=("mend the statement or its values",),
        sqlstate=error.sqlstate or "",
    )


async def _fetch(connection: "Connection[Any]", sql: str, values: Sequence[Any], most: int) -> Rows:
    statement = await connection.prepare(sql)  # one statement: the extended protocol takes no more
    columns = [attribute.name for attribute in statement.get_attributes()]
    found = await statement.fetch(*values)
    words = (statement.get_statusmsg() or "").split()
    affected = int(words[-1]) if words and words[0] != "SELECT" and words[-1].isdigit() else 0
    return Rows(columns, [tuple(row) for row in found[:most]], affected, whole=len(found) <= most)
