"""What must be true after everything was hurt and has settled."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from founder import Founder

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_store.testing import invariants


def check(founder: Founder, tasks: dict[str, pb.Task], effects: Path, groups: Path) -> None:
    """Every task has ended, hardly any for want of luck; nothing confirmed is lost; nothing ran, or happened, twice.

    effects: the file of the provider that counts. groups: the groups' folders, where agents note that they overlap.
    """
    for task in tasks.values():
        if task.state != pb.TASK_STATE_DONE:
            assert task.state == pb.TASK_STATE_BLOCKED, task.id
            assert task.blocked_by == "service:dispatcher", task.id
            assert task.state_reason, task.id
    done = [task.id for task in tasks.values() if task.state == pb.TASK_STATE_DONE]
    reasons = Counter(task.state_reason for task in tasks.values() if task.state != pb.TASK_STATE_DONE)
    assert len(done) >= len(tasks) * 0.9, f"too many tasks ended in BLOCKED: {reasons}"
    for task_id, (version, _state) in founder.told.items():
        assert tasks[task_id].version >= version, f"an acknowledged write of {task_id} is gone"
    counted = Counter(effects.read_text().split())
    assert not [key for key, count in counted.items() if count > 1]
    overlaps = [path for path in groups.glob("*/locks/overlaps") if path.read_text()]
    assert not overlaps, overlaps[0].read_text()


def check_ledger(database: Path, effects: Path) -> None:
    """The ledger knows every effect, and none that did not happen; every log is whole and the state its fold."""
    counted = set(effects.read_text().split())
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        rows = connection.execute("SELECT task_id, state FROM ext_calls WHERE provider = 'count'").fetchall()
    executed = {task_id for task_id, state in rows if state == "EXECUTED"}
    unknown = {task_id for task_id, state in rows if state == "UNKNOWN"}
    assert executed <= counted, "an effect was confirmed that did not happen"
    assert counted <= executed | unknown, "an effect happened that the ledger does not know"
    invariants(database)
