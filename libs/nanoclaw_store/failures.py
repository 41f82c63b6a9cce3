"""What a failure of SQLite means: who may be told what, and when the process must not go on."""

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from nanoclaw_core.errors import Kind, NanoclawError

Die = Callable[[str], object]
"""Ends the process; a test's answers instead, and the store then serves nobody."""

_FATAL = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_log = structlog.get_logger()


def exit_process(reason: str) -> None:
    """The default Die: one log line, then exit 70 without clean-up, for what is in memory is in doubt."""
    _log.critical("store_failed", reason=reason)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(70)


def code_of(error: BaseException | None) -> int:
    """The primary result code of SQLite in an error; 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def is_fatal(error: BaseException | None) -> bool:
    """An I/O error or corruption: what lies on the disk is unknown, so nobody may be told anything."""
    return code_of(error) in _FATAL


def is_busy(error: BaseException | None) -> bool:
    """Another process holds the lock."""
    return code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def commit_surely_failed(error: BaseException) -> bool:
    """Whether a COMMIT that raised this is known not to be on the disk.

    BUSY and a deferred constraint leave the transaction open. FULL is a write that stopped before the end of the
    commit record (a failing flush is an I/O error). Anything else, lack of memory too, can strike after the commit
    record was written: SQLite then rolls back in memory, but recovery may still find the commit.
    """
    return is_busy(error) or code_of(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT)


def translate(error: BaseException) -> BaseException:
    """What a caller is told: STORE_FULL and STORE_BUSY for what may pass later, other errors as they are."""
    if code_of(error) == sqlite3.SQLITE_FULL:
        return NanoclawError(
            Kind.UNAVAILABLE, "STORE_FULL", "the disk of the store is full", next_step="free some space and try again"
        )
    if is_busy(error):
        return NanoclawError(
            Kind.UNAVAILABLE, "STORE_BUSY", "the store is locked by another process", next_step="try again"
        )
    if isinstance(error, StopIteration):  # a future takes any exception but this one
        return RuntimeError("a unit raised StopIteration")
    return error


def not_begun(error: Exception) -> BaseException:
    """What a caller is told when no transaction could begin."""
    told = translate(error)
    return failed(f"no transaction could begin: {error}") if isinstance(told, sqlite3.Error) else told


def failed(message: str) -> NanoclawError:
    """STORE_FAILED: nothing was stored, for a reason that may pass."""
    return NanoclawError(Kind.UNAVAILABLE, "STORE_FAILED", message, next_step="try again")


def unreadable(path: Path, error: sqlite3.DatabaseError) -> NanoclawError | None:
    """STORE_UNREADABLE for a file that is no database or a broken one; None for any other failure."""
    if code_of(error) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return None
    step = "restore it from a backup, or move it away to begin anew; `nanoclaw audit verify` says what is whole in it"
    return NanoclawError(Kind.PRECONDITION, "STORE_UNREADABLE", f"{path}: {error}", next_step=step)


def closed() -> NanoclawError:
    """STORE_CLOSED: the database is not open, or no longer."""
    return NanoclawError(Kind.UNAVAILABLE, "STORE_CLOSED", "the store is closed", next_step="try again")
