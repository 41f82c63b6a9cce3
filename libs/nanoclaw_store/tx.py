"""A unit's view of the database: prepared statements inside one transaction."""

import sqlite3
from typing import Any, cast

from nanoclaw_core.clock import Clock, to_text
from nanoclaw_store.statements import Statement


class Tx:
    """One unit's transaction; of no use after the unit has ended.

    failure: the last error a statement raised, kept even where the unit swallowed it.
    """

    __slots__ = ("_clock", "_connection", "_now", "failure")

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._clock = clock
        self._now = ""
        self.failure: BaseException | None = None

    @property
    def now(self) -> str:
        """The moment of the unit as TEXT: read from the clock once, frozen from then on."""
        if not self._now:
            self._now = to_text(self._clock())
        return self._now

    def one(self, statement: Statement, /, **params: Any) -> sqlite3.Row | None:
        """The first row, or None."""
        return cast("sqlite3.Row | None", self._execute(statement, params).fetchone())

    def all(self, statement: Statement, /, **params: Any) -> list[sqlite3.Row]:
        """Every row."""
        try:
            return self._execute(statement, params).fetchall()
        except BaseException as error:  # later steps of a statement fail here, not in execute
            self._note(error)
            raise

    def run(self, statement: Statement, /, **params: Any) -> int:
        """Runs it and answers how many rows it changed."""
        return self._execute(statement, params).rowcount

    def close(self) -> None:
        """Nothing runs through this view any more."""
        self._connection = None

    def _execute(self, statement: Statement, params: dict[str, Any]) -> sqlite3.Cursor:
        connection = self._connection
        if connection is None:
            raise RuntimeError("the unit has ended, or its transaction has")
        try:
            return connection.execute(statement.sql, statement.bind(params))
        except BaseException as error:
            self._note(error)
            raise

    def _note(self, error: BaseException) -> None:
        self.failure = error
        # Where SQLite has ended the transaction, the next statement would commit on its own.
        if self._connection is not None and not self._connection.in_transaction:
            self._connection = None
