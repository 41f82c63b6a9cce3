"""What agents can do with the operator's databases: read, and write with the effect's row in the same transaction."""

import base64
import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import (
    Action,
    Effect,
    Environment,
    FailureMode,
    Params,
    Provider,
    Refused,
    Result,
)
from nanoclaw_broker.providers.sql import statement
from nanoclaw_broker.providers.sql.database import EFFECTS, RemoteDatabase, Rows, SqlSection
from nanoclaw_broker.providers.sql.postgres import Postgres
from nanoclaw_broker.providers.sql.sqlite import Sqlite
from nanoclaw_core.errors import Kind as ErrorKind
from nanoclaw_core.errors import NanoclawError

MOST_SQL = 20_000
MOST_ROWS = 500
MOST_ANSWER = 40_000
Value = str | int | float | bool | None

_MODES = (
    FailureMode("SQL_REFUSED", "VALIDATION", 0.05),
    FailureMode("DATABASE_UNREACHABLE", "TRANSIENT", 0.005),
    FailureMode("NO_REPLY", "TRANSIENT", 0.005),
)


class StatementParams(Params):
    """What both actions take."""

    database: str = Field(max_length=41, description="a database of the operator's list")
    sql: str = Field(
        min_length=1, max_length=MOST_SQL, description="one statement; $1, $2 … (PostgreSQL) or ? (SQLite) for values"
    )
    values: tuple[Value, ...] = Field(default=(), max_length=100, strict=False)
    max_rows: int = Field(default=100, ge=1, le=MOST_ROWS)


class _Statement(Action[StatementParams]):
    params = StatementParams
    failure_modes: ClassVar[tuple[FailureMode, ...]] = _MODES
    allowed: ClassVar[tuple[str, ...]]

    def __init__(self, databases: Mapping[str, RemoteDatabase]) -> None:
        self._databases = databases

    def check(self, params: StatementParams) -> None:
        """The database is on the list, the statement of a kind that is allowed."""
        if params.database not in self._databases:
            known = ", ".join(sorted(self._databases)) or "there are none"
            step = f"name one of them ({known}), or ask an operator to add it to config/providers.toml"
            raise Refused("DATABASE_NOT_FOUND", f"database: {params.database!r} is not on the list", step)
        statement.check(params.sql, self.allowed)
        if EFFECTS in params.sql.lower():
            raise Refused("STATEMENT_NOT_ALLOWED", f"sql: {EFFECTS} is the broker's", "leave it alone")

    def circuit(self, params: StatementParams) -> str:
        """Each database by itself."""
        return params.database

    def summary(self, params: StatementParams) -> str:
        """The kind of the statement and the database; nothing of what it says."""
        return f"{statement.first_word(params.sql)} on {params.database}"


class Query(_Statement):
    """Reads."""

    name: ClassVar[str] = "query"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.READ
    description: ClassVar[str] = "read rows with one SELECT, in a transaction that can only read"
    allowed: ClassVar[tuple[str, ...]] = statement.READS

    async def execute(self, params: StatementParams, effect: Effect) -> Result:
        """The rows."""
        rows = await self._databases[params.database].read(params.sql, params.values, params.max_rows)
        return _result(rows)


class Execute(_Statement):
    """Writes."""

    name: ClassVar[str] = "execute"
    level: ClassVar[Level] = Level.L2
    kind: ClassVar[Kind] = Kind.MUTATING
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.VERIFY
    description: ClassVar[str] = "change rows with one INSERT, UPDATE, DELETE or MERGE; RETURNING answers rows"
    allowed: ClassVar[tuple[str, ...]] = statement.WRITES

    async def execute(self, params: StatementParams, effect: Effect) -> Result:
        """Done, and on record in the same transaction."""
        database = self._databases[params.database]
        return _result(await database.write(params.sql, params.values, effect.key, params.max_rows))

    async def verify(self, params: StatementParams, effect: Effect) -> Result | None:
        """By the effect's row."""
        happened = await self._databases[params.database].happened(effect.key)
        return Result({"verified": True}, "committed, by its effect's row") if happened else None


def _result(rows: Rows) -> Result:
    """What fits of the answer. A write has been committed by now, so nothing of it may fail."""
    shown: list[list[Any]] = []
    size = 0
    for row in rows.rows:
        values = [_plain(value) for value in row]
        size += len(json.dumps(values, ensure_ascii=False).encode())
        if size > MOST_ANSWER:
            break
        shown.append(values)
    whole = rows.whole and len(shown) == len(rows.rows)
    data = {"columns": list(rows.columns), "rows": shown, "affected": rows.affected, "truncated": not whole}
    return Result(data, f"{len(shown)} rows{'' if whole else ' and more'}, {rows.affected} affected")


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return str(value)


def provider(environment: Environment) -> Provider:
    """The provider. Raises INVALID_SETTING for a database that can't be one."""
    section = environment.section("sql", SqlSection)
    databases = {
        name: _database(environment, name, database.url, database.seconds)
        for name, database in section.databases.items()
    }
    return Provider(
        "sql",
        "read and write the operator's databases",
        (Query(databases), Execute(databases)),
        optional_secrets=tuple(
            f"sql_{name}_password" for name, database in databases.items() if isinstance(database, Postgres)
        ),
    )


def _database(environment: Environment, name: str, url: str, seconds: float) -> RemoteDatabase:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        path = Path(unquote(parts.path))
        if parts.netloc or not path.is_absolute() or _ours(environment.home, path):
            raise _refused(name, "must be sqlite:/// and an absolute path outside NANOCLAW_HOME")
        return Sqlite(path, seconds)
    if parts.scheme not in ("postgresql", "postgres") or parts.password is not None:
        raise _refused(
            name, f"must be postgresql://user@host/name without a password, which is the secret sql_{name}_password"
        )
    return Postgres(url, seconds, _password(environment, f"sql_{name}_password"))


def _ours(home: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(home.resolve())


def _password(environment: Environment, secret: str) -> Callable[[], SecretStr | None]:
    def password() -> SecretStr | None:
        try:
            return environment.secret(secret)
        except NanoclawError:
            return None

    return password


def _refused(name: str, message: str) -> NanoclawError:
    return NanoclawError(
        ErrorKind.INVALID,
        "INVALID_SETTING",
        f"config/providers.toml: sql.databases.{name}.url: {message}",
        next_step="mend the file",
    )
