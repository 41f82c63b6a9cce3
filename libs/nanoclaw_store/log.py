"""The chained log of a slice: one row per fact, each hashed over the one before it."""

import sqlite3
from collections.abc import Mapping, Sequence
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, insert, select

from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store.statements import UtcText, prepare
from nanoclaw_store.tx import Tx

NO_HASH = "0" * 64
"""What the first row has for prev_hash."""

OPEN_EPOCH = "open_epoch"
"""The action of the row that begins an epoch after a restore."""


class Head(NamedTuple):
    """The last row of a log; an empty log has (1, 0, sixty-four zeros)."""

    epoch: int
    seq: int
    hash: str


class Change(NamedTuple):
    """The image of a changed row. values: the columns that changed, all of them at creation; None: row deleted."""

    table: str
    key: Mapping[str, str | int]
    values: Mapping[str, Any] | None


def row_text(
    action: str, attempt_id: str, change: str, created_at: str, epoch: int, from_state: str, policy_version: str,
    principal: str, reason: str, request_ref: str, seq: int, subject: str, task_id: str, to_state: str, trace_id: str,
    via: str,
) -> str:  # fmt: skip
    """canonical() of a row without its hashes, put together by hand because it is: a test holds the two together."""
    q = encode_basestring
    return (
        f'{{"action":{q(action)},"attempt_id":{q(attempt_id)},"change":{q(change)},"created_at":{q(created_at)},'
        f'"epoch":{epoch},"from_state":{q(from_state)},"policy_version":{q(policy_version)},"principal":{q(principal)},'
        f'"reason":{q(reason)},"request_ref":{q(request_ref)},"seq":{seq},"subject":{q(subject)},'
        f'"task_id":{q(task_id)},"to_state":{q(to_state)},"trace_id":{q(trace_id)},"via":{q(via)}}}'
    )


def row_hash(prev_hash: str, text: str) -> str:
    """SHA-256 over the hash of the row before and the canonical row."""
    return sha256(f"{prev_hash}\n{text}".encode()).hexdigest()


class LogTable:
    """The log of a slice, in its tables.py as LOG; `table` is for queries."""

    def __init__(self, name: str, metadata: MetaData) -> None:
        def text(column: str) -> Column[str]:
            return Column(column, Text, nullable=False)

        self.name = name
        self.table = Table(
            name,
            metadata,
            Column("seq", Integer, primary_key=True),
            Column("epoch", Integer, nullable=False),
            text("task_id"),
            text("subject"),
            text("action"),
            text("from_state"),
            text("to_state"),
            text("principal"),
            text("via"),
            text("attempt_id"),
            text("reason"),
            text("change"),
            text("policy_version"),
            text("request_ref"),
            text("trace_id"),
            Column("created_at", UtcText, nullable=False),
            Column("prev_hash", Text, nullable=False, unique=True),
            text("hash"),
        )
        columns = self.table.c
        self._insert = prepare(insert(self.table))
        self._head = prepare(select(columns.epoch, columns.seq, columns.hash).order_by(columns.seq.desc()).limit(1))
        self._after = prepare(
            select(self.table).where(columns.seq > bindparam("after")).order_by(columns.seq).limit(bindparam("most"))
        )
        self._epoch_of = prepare(select(columns.epoch).where(columns.seq == bindparam("wanted")))

    def append(
        self,
        tx: Tx,
        *,
        action: str,
        principal: str,
        changes: Sequence[Change] = (),
        facts: Mapping[str, Any] | None = None,
        task_id: str = "",
        subject: str = "",
        from_state: str = "",
        to_state: str = "",
        via: str = "",
        attempt_id: str = "",
        reason: str = "",
        policy_version: str = "",
        request_ref: str = "",
        trace_id: str = "",
    ) -> Head:
        """Writes the fact after the head as this transaction sees it; `changes` are replayed by verify().

        facts: what else belongs into the row's `change`; the member `set` is taken.
        """
        epoch, seq, prev_hash = self.head(tx)
        return self._write(
            tx, epoch, seq + 1, prev_hash, changes, facts or {}, action=action, principal=principal, task_id=task_id,
            subject=subject, from_state=from_state, to_state=to_state, via=via, attempt_id=attempt_id, reason=reason,
            policy_version=policy_version, request_ref=request_ref, trace_id=trace_id,
        )  # fmt: skip

    def open_epoch(self, tx: Tx, abandoned: Head, *, principal: str, reason: str = "") -> Head:
        """Begins a new epoch after a restore, with a row that names the abandoned head; cursors past here are void."""
        epoch, seq, prev_hash = self.head(tx)
        return self._write(
            tx, max(epoch, abandoned.epoch) + 1, seq + 1, prev_hash, (), {"abandoned": abandoned._asdict()},
            action=OPEN_EPOCH, principal=principal, task_id="", subject="", from_state="", to_state="", via="",
            attempt_id="", reason=reason, policy_version="", request_ref="", trace_id="",
        )  # fmt: skip

    def head(self, tx: Tx) -> Head:
        """The last row as this transaction sees it; never cached."""
        row = tx.one(self._head)
        return Head(*row) if row else Head(1, 0, NO_HASH)

    def after(self, tx: Tx, seq: int, limit: int) -> list[sqlite3.Row]:
        """At most `limit` rows past `seq`, in order."""
        return tx.all(self._after, after=seq, most=limit)

    def check_cursor(self, tx: Tx, epoch: int, seq: int) -> None:
        """Whether a reader that has seen up to (epoch, seq) may go on from there; (0, 0) and (1, 0) are the beginning.

        Raises INVALID CURSOR_INVALID where this log has no such row: beyond the head, or of another epoch.
        """
        if seq == 0 and epoch in (0, 1):
            return
        row = tx.one(self._epoch_of, wanted=seq)
        if row is None or row[0] != epoch:
            head = self.head(tx)
            raise NanoclawError(
                Kind.INVALID,
                "CURSOR_INVALID",
                f"cursor: the log has no row {seq} of epoch {epoch}",
                next_step="read from the beginning, or from the head",
                epoch=epoch,
                seq=seq,
                head_epoch=head.epoch,
                head_seq=head.seq,
            )

    def _write(
        self, tx: Tx, epoch: int, seq: int, prev_hash: str, changes: Sequence[Change], facts: Mapping[str, Any],
        **texts: str,
    ) -> Head:  # fmt: skip
        if "set" in facts:
            raise ValueError("the member `set` of a change is for the row images")
        change = canonical({"set": changes, **facts})
        created_at = tx.now
        hash_ = row_hash(prev_hash, row_text(epoch=epoch, seq=seq, change=change, created_at=created_at, **texts))
        tx.run(
            self._insert, epoch=epoch, seq=seq, change=change, created_at=created_at, prev_hash=prev_hash, hash=hash_,
            **texts,
        )  # fmt: skip
        return Head(epoch, seq, hash_)


def log_ddl(name: str) -> str:
    """The SQL of a log table and of the triggers that keep it append-only: put it into a migration as it stands."""
    return f"""\
CREATE TABLE {name} (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    task_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action <> ''),
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    principal TEXT NOT NULL CHECK (principal <> ''),
    via TEXT NOT NULL,
    attempt_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    change TEXT NOT NULL,
    policy_version TEXT NOT NULL,
    request_ref TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    created_at TEXT NOT NULL CHECK (length(created_at) = 27),
    prev_hash TEXT NOT NULL UNIQUE CHECK (length(prev_hash) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64)
) STRICT;
CREATE TRIGGER {name}_no_update BEFORE UPDATE ON {name}
BEGIN
    SELECT RAISE(ABORT, '{name} is append-only');
END;
CREATE TRIGGER {name}_no_delete BEFORE DELETE ON {name}
BEGIN
    SELECT RAISE(ABORT, '{name} is append-only');
END;
"""
