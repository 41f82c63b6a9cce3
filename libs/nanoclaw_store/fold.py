"""The fold of a log: what the state tables must hold if every change was written to both."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]

ROWS_AT_ONCE = 250_000
"""How many rows of state are held in memory; a larger state is folded in several passes over the log."""


def quoted(name: str) -> str:
    """A name of the database as SQL; it may come from a file that somebody has tampered with."""
    return '"' + name.replace('"', '""') + '"'


class Fold:
    """The rows of one state table by the log, as far as they belong to one part of several."""

    def __init__(self, connection: sqlite3.Connection, table: str, keys: tuple[str, ...]) -> None:
        info = connection.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
        self.table = table
        self.keys = keys
        self.columns: tuple[str, ...] = tuple(row[1] for row in info)
        if not keys or not set(keys) <= set(self.columns):
            raise ValueError(f"table {table}: has no key {', '.join(keys)}")
        self._index = {column: position for position, column in enumerate(self.columns)}
        # A column that came with a later migration is in older images only by its default.
        self._defaults = [_default(connection, row[4]) for row in info]
        self.key_of: Callable[[Any], Any] = itemgetter(*keys)
        self._key_of_row: Callable[[Any], Any] = itemgetter(*(self._index[key] for key in keys))
        self.rows: dict[Any, list[Any]] = {}

    def set(self, key: Any, names: Mapping[str, Any], values: Mapping[str, Any] | None) -> None:
        """Replays one image. Raises KeyError for a column that the table has not."""
        if values is None:
            del self.rows[key]
            return
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = self._defaults.copy()
            for column, value in names.items():
                row[self._index[column]] = value
        index = self._index
        for column, value in values.items():
            row[index[column]] = value

    def differences(self, connection: sqlite3.Connection, part: int, parts: int) -> Iterator[str]:
        """Compares with the table completely, in both directions; what is the same is forgotten."""
        columns = ", ".join(quoted(column) for column in self.columns)
        key_of_row, rows = self._key_of_row, self.rows
        for actual in connection.execute(f"SELECT {columns} FROM {quoted(self.table)} NOT INDEXED"):  # noqa: S608
            key = key_of_row(actual)
            if parts > 1 and hash(key) % parts != part:
                continue
            folded = rows.pop(key, None)
            if folded is None:
                yield f"table {self.table}: row {self._named(key)} is not in the log"
            elif folded != list(actual):
                for column, logged, stored in zip(self.columns, folded, actual, strict=True):
                    if logged != stored:
                        yield (
                            f"table {self.table}: row {self._named(key)}: column {column} is {_short(stored)}, "
                            f"by the log {_short(logged)}"
                        )
        for key in rows:
            yield f"table {self.table}: row {self._named(key)} of the log is missing"

    def _named(self, key: Any) -> str:
        values = key if len(self.keys) > 1 else (key,)
        return ", ".join(f"{name}={_short(value)}" for name, value in zip(self.keys, values, strict=True))


class Folds:
    """All state tables of a slice together, for one part of `parts`."""

    def __init__(
        self, connection: sqlite3.Connection, folded: Mapping[str, tuple[str, ...]], part: int, parts: int
    ) -> None:
        self._folds = {table: Fold(connection, table, keys) for table, keys in folded.items()}
        self._connection = connection
        self._part = part
        self._parts = parts

    def replay(self, change: str) -> str:
        """Replays the `set` list of a row's change; answers what is wrong with it, or nothing."""
        try:
            # Quotes within a JSON string are escaped: these bytes are a member `set` with entries, or there is none.
            if '"set":[[' not in change:
                return ""
            entries = _scan(change, 0)[0]["set"]
            for table, names, values in entries:
                fold = self._folds[table]
                key = fold.key_of(names)
                if self._parts == 1 or hash(key) % self._parts == self._part:
                    fold.set(key, names, values)
        except (KeyError, ValueError, TypeError, AttributeError, StopIteration) as error:
            return f"its change does not fit the state tables: {type(error).__name__} {error}"
        return ""

    def differences(self) -> Iterator[str]:
        """Every difference between the tables and the fold."""
        for fold in self._folds.values():
            yield from fold.differences(self._connection, self._part, self._parts)


def _default(connection: sqlite3.Connection, expression: str | None) -> Any:
    if expression is None:
        return None
    return connection.execute(f"SELECT {expression}").fetchone()[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
