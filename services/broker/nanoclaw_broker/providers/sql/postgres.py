"""A PostgreSQL database, by asyncpg; a connection for each call, for calls are few and must not share a session."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.base import ActionFailed, NoReply
from nanoclaw_broker.providers.sql.database import DONE, EFFECTS, VOID, Rows, effect_void
from nanoclaw_broker.providers.sql.wire import MOST_BYTES, Wire

if TYPE_CHECKING:
    from asyncpg import Connection, PostgresError, Record
    from asyncpg.prepared_stmt import PreparedStatement

CONNECT_SECONDS = 5.0
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {EFFECTS} (effect_key text PRIMARY KEY, outcome text NOT NULL,"
    " made_at timestamptz NOT NULL DEFAULT now())"
)
_MARK = f"INSERT INTO {EFFECTS} (effect_key, outcome) VALUES ($1, $2) ON CONFLICT (effect_key) DO NOTHING"  # noqa: S608
_OUTCOME = f"SELECT outcome FROM {EFFECTS} WHERE effect_key = $1"  # noqa: S608
_BROKEN = ("57P", "58", "XX")
"""What an error's SQLSTATE begins with where the server is shutting down, or broken."""


class Postgres:
    """See RemoteDatabase. password: None where the server asks for none."""

    def __init__(self, url: str, seconds: float, password: Callable[[], SecretStr | None]) -> None:
        self._url = url
        self._seconds = seconds
        self._password = password

    async def read(self, sql: str, values: Sequence[Any], most: int) -> Rows:
        """See RemoteDatabase."""
        async with (
            self._connected() as (connection, wire),
            _answering(connection, wire),
            connection.transaction(readonly=True),
        ):
            return await _read(connection, wire, sql, values, most)

    async def write(self, sql: str, values: Sequence[Any], key: str, most: int) -> Rows:
        """See RemoteDatabase."""
        async with self._connected() as (connection, wire), _answering(connection, wire):
            await self._have_effects(connection)
            async with connection.transaction():
                if await connection.execute(_MARK, key, DONE) != "INSERT 0 1":
                    raise effect_void()
                rows = await _write(connection, wire, sql, values, most)
                if await connection.fetchval(_OUTCOME, key) != DONE:
                    raise ActionFailed(
                        "EFFECTS_TOUCHED",
                        f"the statement changes {EFFECTS}; nothing was done",
                        next_steps=("leave that table alone",),
                    )
                return rows

    async def happened(self, key: str) -> bool:
        """See RemoteDatabase. A write that is still under way holds the key: this waits for its end."""
        async with self._connected() as (connection, _):
            await self._have_effects(connection)
            await connection.execute(_MARK, key, VOID)
            return bool(await connection.fetchval(_OUTCOME, key) == DONE)

    async def _have_effects(self, connection: "Connection[Any]") -> None:
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", EFFECTS):
            return
        from asyncpg import DuplicateObjectError, DuplicateTableError, InsufficientPrivilegeError, UniqueViolationError

        try:
            await connection.execute(_CREATE)
        except (DuplicateTableError, DuplicateObjectError, UniqueViolationError):  # somebody made it just now
            return
        except InsufficientPrivilegeError:
            step = f"have the database's owner run: {_CREATE}; GRANT SELECT, INSERT ON {EFFECTS} TO the broker's role"
            message = f"the table {EFFECTS} is not there, and the broker's role may not make it"
            raise ActionFailed("EFFECT_TABLE_MISSING", message, next_steps=(step,)) from None

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[tuple[Connection[Any], Wire]]":
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
        except Exception as error:  # whatever the server says until here, nothing was sent
            raise ActionFailed(
                "DATABASE_UNREACHABLE",
                f"the database could not be reached: {type(error).__name__}",
                next_steps=("send it again later", "ask an operator to look at the database and the broker's password"),
                in_trouble=True,
            ) from None
        try:
            yield connection, Wire(connection)
        finally:
            connection.terminate()


@asynccontextmanager
async def _answering(connection: "Connection[Any]", wire: Wire) -> AsyncIterator[None]:
    """The database's own no is an answer; a connection that broke is none, and neither is what can't be read."""
    from asyncpg import InterfaceError, PostgresConnectionError, PostgresError

    try:
        yield
    except (ActionFailed, TimeoutError):
        raise
    except Exception as error:
        if wire.over:  # while its rows were read, so before the end of the transaction
            raise ActionFailed(
                "ANSWER_TOO_LARGE",
                f"the database answers more than {MOST_BYTES} bytes; nothing was done",
                next_steps=("ask for fewer rows or shorter values",),
            ) from None
        if isinstance(error, PostgresError) and not isinstance(error, PostgresConnectionError):
            state = error.sqlstate or ""
            if state and not state.startswith(_BROKEN):
                raise _refused(error) from None
        if isinstance(error, InterfaceError) and not connection.is_closed():
            # values that do not fit never left
            raise ActionFailed("SQL_VALUES", excerpt(str(error), 500), next_steps=("mend the values",)) from None
        raise NoReply(f"the connection to the database broke: {type(error).__name__}") from None


def _refused(error: "PostgresError") -> ActionFailed:
    return ActionFailed(
        "SQL_REFUSED",
        excerpt(f"the database says: {error.args[0] if error.args else type(error).__name__}", 1000),
        next_steps=("mend the statement or its values",),
        sqlstate=error.sqlstate or "",
    )


async def _read(connection: "Connection[Any]", wire: Wire, sql: str, values: Sequence[Any], most: int) -> Rows:
    statement = await connection.prepare(sql)  # one statement: the extended protocol takes no more
    with _decoding(connection, wire):
        found = await (await statement.cursor(*values)).fetch(most + 1)
    return Rows(_columns(statement), [_cells(row) for row in found[:most]], whole=len(found) <= most)


async def _write(connection: "Connection[Any]", wire: Wire, sql: str, values: Sequence[Any], most: int) -> Rows:
    statement = await connection.prepare(sql)
    with _decoding(connection, wire):
        found = await statement.fetch(*values)  # to its end: only then does it say how much it changed
    words = (statement.get_statusmsg() or "").split()
    affected = int(words[-1]) if words and words[0] != "SELECT" and words[-1].isdigit() else 0
    return Rows(_columns(statement), [_cells(row) for row in found[:most]], affected, whole=len(found) <= most)


def _cells(row: "Record") -> tuple[Any, ...]:
    return tuple(map(_cell, row))


def _cell(value: Any) -> Any:
    """A value of a row; one that is a row itself by its names."""
    from asyncpg import Record

    if isinstance(value, Record):
        return {name: _cell(one) for name, one in value.items()}
    return [_cell(one) for one in value] if isinstance(value, list) else value


def _columns(statement: "PreparedStatement[Any]") -> list[str]:
    return [attribute.name for attribute in statement.get_attributes()]


@contextmanager
def _decoding(connection: "Connection[Any]", wire: Wire) -> Iterator[None]:
    """Bounds what is read, and says what can't be, such as a year after 9999; the transaction is rolled back then."""
    from asyncpg import InterfaceError, PostgresError

    wire.expect(MOST_BYTES)
    try:
        yield
    except (InterfaceError, PostgresError, OSError, TimeoutError):
        raise
    except Exception as error:
        if connection.is_closed():
            raise
        raise ActionFailed(
            "ANSWER_NOT_READABLE",
            f"a value of the answer can't be read: {type(error).__name__}; nothing was done",
            next_steps=("cast it to text",),
        ) from None
    finally:
        wire.expect()
