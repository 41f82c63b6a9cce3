"""Statements: SQLAlchemy Core compiled once, at import, to SQL text and the order of its parameters."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Delete, Insert, Text, Update
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.sql.expression import SelectBase
from sqlalchemy.types import TypeDecorator

from nanoclaw_core.clock import to_text


class UtcText(TypeDecorator[str]):
    """A moment as TEXT `YYYY-MM-DDTHH:MM:SS.ffffffZ`; rows carry the text, nanoclaw_core.clock reads it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | datetime | None, dialect: Any) -> str | None:
        """A datetime among the constants of a statement becomes its text."""
        return to_text(value) if isinstance(value, datetime) else value

    def process_literal_param(self, value: str | datetime | None, dialect: Any) -> str:
        return self.process_bind_param(value, dialect) or ""


class _Compiler(SQLiteCompiler):
    """Writes constants into the SQL text: the planner can then match them with partial indexes."""

    def visit_bindparam(self, bindparam: BindParameter[Any], *args: Any, **kw: Any) -> Any:
        constant = not bindparam.required and (bindparam.unique or getattr(bindparam, "_is_crud", False))
        if bindparam.expanding and not constant:
            raise ValueError(f"{bindparam.key}: a list of unknown length needs json_each")
        if constant:
            kw["literal_binds"] = True
        return super().visit_bindparam(bindparam, *args, **kw)  # type: ignore[no-untyped-call]


class _Dialect(SQLiteDialect_pysqlite):
    statement_compiler = _Compiler
    supports_statement_cache = False


_DIALECT = _Dialect(paramstyle="qmark")
_KINDS = (SelectBase, Insert, Update, Delete)


class Statement:
    """SQL text and what it needs: `names` are the parameters to be given by name, each once."""

    __slots__ = ("_defaults", "_pick", "names", "sql")

    def __init__(self, sql: str, order: tuple[str, ...], defaults: Mapping[str, Any]) -> None:
        self.sql = sql
        self.names = frozenset(order)
        self._defaults = dict(defaults)
        self._pick = _picker(order)

    def bind(self, params: dict[str, Any]) -> tuple[Any, ...]:
        """The values in the order of the SQL text. Raises TypeError for a missing or an unknown name."""
        if self._defaults:
            params = self._defaults | params
        if len(params) == len(self.names):
            try:
                return self._pick(params)
            except KeyError:
                pass
        missing, unknown = sorted(self.names - params.keys()), sorted(params.keys() - self.names)
        raise TypeError(f"parameters missing: {missing}, unknown: {unknown} in {self.sql}")

    def __repr__(self) -> str:
        return f"Statement({self.sql!r})"


def _picker(order: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    if not order:
        return lambda params: ()
    if len(order) == 1:
        (name,) = order
        return lambda params: (params[name],)
    return itemgetter(*order)


def prepare(statement: Any, columns: Iterable[str] | None = None) -> Statement:
    """Compiles a SELECT, INSERT, UPDATE or DELETE of SQLAlchemy Core for SQLite.

    columns: the columns of a plain insert() or update() without values; each is a parameter of its own name. Constants
    are written into the SQL. Values are given to SQLite as they are: text, int, float, bytes, None.
    Raises ValueError for what SQLAlchemy would have to do at run time: defaults of Python, lists of unknown length.
    """
    if not isinstance(statement, _KINDS):
        raise ValueError(f"only SELECT, INSERT, UPDATE and DELETE are prepared, not {type(statement).__name__}")
    keys = None if columns is None else list(columns)
    compiled = statement.compile(dialect=_DIALECT, column_keys=keys)
    assert isinstance(compiled, _Compiler)
    generated = [column.name for column in (*compiled.insert_prefetch, *compiled.update_prefetch)]
    if generated:
        raise ValueError(f"columns with a default of Python: {generated}")
    binds = compiled.binds
    defaults = {name: bind.value for name, bind in binds.items() if not bind.required and name in _order(compiled)}
    return Statement(str(compiled), _order(compiled), defaults)


def _order(compiled: _Compiler) -> tuple[str, ...]:
    return tuple(compiled.positiontup or ())
