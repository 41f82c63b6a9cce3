"""verify(): is the log whole, and does every state table equal its fold; offline, on a database or a backup copy."""

import itertools
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store.chain import Broken, Walk
from nanoclaw_store.failures import is_busy
from nanoclaw_store.fold import ROWS_AT_ONCE, Folds, quoted
from nanoclaw_store.log import NO_HASH, Head

MOST_FINDINGS = 100
"""How many findings a slice reports; a broken log has as many as rows."""


@dataclass(frozen=True)
class SliceReport:
    """One slice. rows: of its log. head: the log's last row. findings: what is wrong, one line each."""

    name: str
    rows: int
    head: Head
    first_broken: Broken | None
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What verify() found; findings name their slice."""

    ok: bool
    slices: tuple[SliceReport, ...]
    first_broken: Broken | None
    findings: tuple[str, ...]


def verify(database: Path | sqlite3.Connection, *, only: str = "") -> Report:
    """Checks every slice's chain, replays its changes, and compares with its state tables completely.

    A path is opened read-only and seen at one moment, while services may go on writing; memory holds a bounded part of
    the state, never the log. only: one slice. A log cut off at its end shows by the state tables alone; what was cut
    off everywhere shows only against an anchor kept elsewhere. Raises NanoclawError STORE_UNREADABLE for what is not a
    database of this system, or lacks the slice.
    """
    if isinstance(database, sqlite3.Connection):
        return _report(database, only)
    path = Path(database)
    try:
        if _has_wal(path):
            return _verify_path(path, only, "")
        stamp = _stamp(path)
        report = _verify_path(path, only, "&immutable=1")
        # Nobody locks an immutable file: if a service has begun to write meanwhile, what was read may be torn.
        if _has_wal(path) or _stamp(path) != stamp:
            return _verify_path(path, only, "")
        return report
    except (OSError, sqlite3.Error) as error:
        if is_busy(error):
            raise NanoclawError(Kind.UNAVAILABLE, "STORE_BUSY", f"{path} is locked", next_step="try again") from error
        raise NanoclawError(
            Kind.PRECONDITION, "STORE_UNREADABLE", f"{path}: {error}", next_step="name a database of NanoClaw OS"
        ) from error


def _has_wal(path: Path) -> bool:
    return path.with_name(path.name + "-wal").exists()


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _verify_path(path: Path, only: str, option: str) -> Report:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro{option}", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA query_only = 1")
        connection.execute("BEGIN")  # one snapshot for log and tables
        return _report(connection, only)
    finally:
        connection.close()


def _report(connection: sqlite3.Connection, only: str) -> Report:
    row_factory, connection.row_factory = connection.row_factory, None
    try:
        rows = connection.execute("SELECT slice, log, tables, folded FROM store_slices ORDER BY slice").fetchall()
        slices = tuple(
            _verify_slice(connection, name, log, {table: tuple(keys) for table, keys in json.loads(folded).items()})
            for name, log, _, folded in rows
            if not only or name == only
        )
        owned = {table for _, _, tables, _ in rows for table in json.loads(tables)}
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    finally:
        connection.row_factory = row_factory
    if not slices:
        raise sqlite3.DatabaseError(f"has no slice {only}".rstrip())
    findings = [f"{part.name}: {finding}" for part in slices for finding in part.findings]
    # Else striking a slice off the list would take it out of sight.
    strays = sorted(name for name in there - owned if not name.startswith(("store_", "sqlite_")))
    findings += [f"table {name} belongs to no slice" for name in strays]
    broken = next((part.first_broken for part in slices if part.first_broken), None)
    return Report(not findings, slices, broken, tuple(findings))


def _verify_slice(
    connection: sqlite3.Connection, name: str, log: str, folded: dict[str, tuple[str, ...]]
) -> SliceReport:
    findings: list[str] = []
    head, rows, broken = Head(1, 0, NO_HASH), 0, None
    try:
        state = sum(connection.execute(f"SELECT count(*) FROM {quoted(t)}").fetchone()[0] for t in folded)  # noqa: S608
        parts = max(1, -(-state // ROWS_AT_ONCE))
        for part in range(parts) if log else ():
            folds = Folds(connection, folded, part, parts)
            walk = Walk(connection, log)
            try:
                for epoch, seq, change in walk.changes():
                    wrong = folds.replay(change)
                    if wrong and len(findings) <= MOST_FINDINGS:
                        line = f"row {seq} of epoch {epoch}: {wrong}"
                        findings += [line] if line not in findings else []  # another part may have met it
            finally:
                head, rows, broken = walk.head, walk.rows, walk.first_broken
            findings.extend(itertools.islice(folds.differences(), MOST_FINDINGS + 1))
    except (sqlite3.Error, ValueError) as error:
        if is_busy(error):
            raise
        findings.append(f"unreadable after row {head.seq}: {error}")
    if broken is not None:
        findings.insert(0, f"row {broken.seq} of epoch {broken.epoch}: {broken.what}")
    if len(findings) > MOST_FINDINGS:
        findings[MOST_FINDINGS:] = ["and more"]
    return SliceReport(name, rows, head, broken, tuple(findings))
