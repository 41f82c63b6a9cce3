"""The chain of a log, walked from its first row to its last."""

import sqlite3
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from nanoclaw_store.fold import quoted
from nanoclaw_store.log import NO_HASH, OPEN_EPOCH, Head, row_text

_LOG_ROWS = """
SELECT action, attempt_id, change, created_at, epoch, from_state, policy_version, principal, reason, request_ref, seq,
    subject, task_id, to_state, trace_id, via, prev_hash, hash
FROM {} NOT INDEXED ORDER BY seq
"""


class Broken(NamedTuple):
    """The first row at which a chain breaks, and what is wrong with it."""

    epoch: int
    seq: int
    what: str


class Walk:
    """One pass over a log: checks the chain, and remembers the head and the first break."""

    def __init__(self, connection: sqlite3.Connection, log: str) -> None:
        self._cursor = connection.execute(_LOG_ROWS.format(quoted(log)))
        self._last = (1, 0, NO_HASH)
        self.rows = 0
        self.first_broken: Broken | None = None

    @property
    def head(self) -> Head:
        """The last row that was read."""
        return Head(*self._last)

    def changes(self) -> Iterator[tuple[int, int, str]]:
        """Every row's epoch, seq and change, checked on the way."""
        last_epoch, last_seq, last_hash = self._last
        for rows, row in enumerate(self._cursor, 1):
            (action, attempt_id, change, created_at, epoch, from_state, policy_version, principal, reason, request_ref,
             seq, subject, task_id, to_state, trace_id, via, prev_hash, hash_) = row  # fmt: skip
            if self.first_broken is None:
                try:
                    text = row_text(
                        action, attempt_id, change, created_at, epoch, from_state, policy_version, principal, reason,
                        request_ref, seq, subject, task_id, to_state, trace_id, via,
                    )  # fmt: skip
                    good = sha256(f"{prev_hash}\n{text}".encode()).hexdigest() == hash_
                    if (
                        not good
                        or prev_hash != last_hash
                        or seq != last_seq + 1
                        or (epoch <= last_epoch if action == OPEN_EPOCH else epoch != last_epoch)
                    ):
                        what = _what(good, prev_hash == last_hash, seq, last_seq, epoch, last_epoch, action)
                        self.first_broken = Broken(epoch, seq, what)
                except TypeError:
                    self.first_broken = Broken(epoch, seq, "a column is of another type than the log has")
            self.rows = rows
            self._last = last_epoch, last_seq, last_hash = epoch, seq, hash_
            yield epoch, seq, change


def _what(good: bool, chained: bool, seq: int, last_seq: int, epoch: int, last_epoch: int, action: str) -> str:
    if seq != last_seq + 1:
        return f"follows row {last_seq}: {seq - last_seq - 1} rows are missing between them"
    if not good:
        return "its hash is not that of its columns"
    if not chained:
        return "its prev_hash is not the hash of the row before"
    if action == OPEN_EPOCH:
        return f"opens epoch {epoch} after epoch {last_epoch}"
    return f"is of epoch {epoch} where epoch {last_epoch} was not ended by {OPEN_EPOCH}"
