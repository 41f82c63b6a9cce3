"""Killed between any two steps, 500 times under load: no effect twice, none lost unnoticed, no cent unaccounted for."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from broker_mortal import lines

from nanoclaw_store.testing import invariants

MOST_STEPS = 150


@pytest.mark.parametrize("lives", [8, pytest.param(500, marks=[pytest.mark.crash, pytest.mark.timeout(600)])])
def test_however_often_it_dies_the_ledger_and_the_world_agree(home: Path, lives: int) -> None:
    """SIGKILL at a random step of each life: before and after every commit, before and after every effect."""
    chosen = random.Random(int(os.environ.get("MORTALITY_SEED", "2026")))
    script = Path(__file__).parents[1] / "support" / "broker_mortal.py"
    with subprocess.Popen(
        [sys.executable, str(script), str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as mother:
        assert mother.stdin is not None
        assert mother.stdout is not None

        def live(life: int, step: int) -> int:
            mother.stdin.write(f"{life} {life} {step}\n")  # type: ignore[union-attr]
            mother.stdin.flush()  # type: ignore[union-attr]
            return int(mother.stdout.readline())  # type: ignore[union-attr]

        killed = [os.WTERMSIG(live(life, chosen.randint(1, MOST_STEPS))) for life in range(lives)]
        assert killed == [signal.SIGKILL] * lives
        assert live(lives, 0) == 0
        mother.stdin.close()
    agree(home)


def agree(home: Path) -> None:
    """The far side, the ledger, what was answered and what was spent tell one story."""
    invariants(home / "store" / "nanoclaw.db")
    with closing(sqlite3.connect(home / "store" / "nanoclaw.db", isolation_level=None)) as database:
        calls = {row[0]: row[1:] for row in database.execute("SELECT call_id, action, state, code FROM ext_calls")}
        assert database.execute("SELECT count(*) FROM ext_params").fetchone() == (0,)
        (cost,) = database.execute("SELECT sum(cost_micros) FROM ext_calls").fetchone()
        sums = database.execute("SELECT sum(reserved_micros), sum(spent_micros) FROM ext_spending WHERE day = ''")
        assert sums.fetchone() == (0, 2 * cost)  # the group's and that of all together
    done = {call_id for call_id, (_, _, code) in calls.items() if code == "OK"}
    given_up = {call_id for call_id, (_, state, _) in calls.items() if state == "ABANDONED"}
    assert {state for _, state, _ in calls.values()} <= {"EXECUTED", "RECONCILED", "FAILED", "ABANDONED"}
    effects: list[str] = []
    for file in home.glob("*.effects"):
        effects += lines(file)
    assert len(effects) == len(set(effects)), "an effect happened twice"
    assert set(effects) <= done | given_up, "an effect that nobody was told of"
    assert done <= set(effects), "said to be done, and it was not"
    assert {calls[call_id][0] for call_id in given_up} <= {"harmless"}
    for line in (home / "answered.log").read_text().splitlines() if (home / "answered.log").exists() else []:
        call_id, code = json.loads(line)
        assert calls[call_id][2] == code or (code == "EFFECT_UNKNOWN" and call_id in done | given_up)
