"""What is pinned: the policy under its version, the ledger's lifecycle in code and database, tables and migrations."""

import ast
import hashlib
import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nanoclaw_broker import policy
from nanoclaw_broker.call import AFTER_TASK, BEFORE_TASK
from nanoclaw_broker.ledger import TRANSITIONS, Kind, State, first_state, state_without_reply
from nanoclaw_broker.tables import SLICE, metadata
from nanoclaw_store.migrations import migrate
from nanoclaw_store.testing import assert_schema_matches

PINNED = {
    "1.0.0": "0ddd10b86c954736484b88b0336dd5b30323f2c590477435f5dcd34d0d489ec7",
    "1.1.0": "1966000e937b5f3b50006732fc33226cf5c64fd8084ca6b7cc3d84a2c20fdf01",
    "1.2.0": "b63525cb15a6ef5d7eb5327dd14cb39db4b691dd87518f6212a4d668cfcf2e56",
    "1.3.0": "60456fe0e62002cf87f05715b5374a1a5ce8af19117ac91f55f4e189c32f28ae",
}


def test_the_policy_does_not_change_under_the_same_version() -> None:
    """Whoever changes a level, a limit or the order of the checks raises POLICY_VERSION, and pins the digest anew."""
    assert hashlib.sha256(policy.tables().encode()).hexdigest() == PINNED[policy.POLICY_VERSION]


def test_the_checks_stand_in_the_order_of_their_numbers() -> None:
    """The table of rules is the table of the design: each rule's docstring begins with the number of its check."""
    numbers = [int((rule.__doc__ or "").partition(".")[0]) for rule in (*BEFORE_TASK, *AFTER_TASK)]
    assert numbers == sorted(numbers)
    assert set(numbers) == {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}


def test_tables_and_migrations_agree() -> None:
    """tables.py says what the migrations make."""
    assert_schema_matches(SLICE, metadata)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the slice, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "nanoclaw.db"
    migrate(path, SLICE)
    return path


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    shutil.copy(migrated, tmp_path / "nanoclaw.db")
    with closing(sqlite3.connect(tmp_path / "nanoclaw.db", isolation_level=None)) as connection:
        yield connection


OPEN = (State.AWAITING_APPROVAL, State.PREPARED, State.SENT)


def insert(database: sqlite3.Connection, state: State, kind: Kind) -> None:
    """A row of the ledger in a state, as it would be."""
    over = state not in OPEN
    values = {column.name: "" for column in metadata.tables["ext_calls"].columns}
    values |= dict.fromkeys(("level", "claim_number", "claim_of_day", "duration_ms", "cost_micros"), 0)
    values |= {"call_id": "c", "request_id": "r", "group_name": "g", "params_hmac": "0" * 64, "policy_version": "1"}
    values |= {"created_at": "2026-11-21T12:00:00.000000Z", "updated_at": "2026-11-21T12:00:00.000000Z"}
    values |= {"state": state.value, "code": "X" if over else "", "answer_sha256": "0" * 64 if over else ""}
    if state is not State.DENIED:
        values |= {"claim_number": 1, "level": 3, "kind": kind.value, "capability_id": "k"}
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    database.execute(f"INSERT INTO ext_calls ({names}) VALUES ({marks})", tuple(values.values()))


_OF_MUTATING = {State.UNKNOWN, State.RECONCILED, State.COMPENSATED, State.ABANDONED}
_PAIRS = [
    pair for pair in itertools.product(State, State) if not (State.TIMEOUT in pair and _OF_MUTATING.intersection(pair))
]
"""No kind of action can have both of these ends."""


@pytest.mark.parametrize(("was", "becomes"), _PAIRS)
def test_the_database_agrees_with_the_table_of_transitions(
    database: sqlite3.Connection, was: State, becomes: State
) -> None:
    """Every pair: what TRANSITIONS allows the triggers allow, and nothing else."""
    kind = Kind.READ if State.TIMEOUT in (was, becomes) else Kind.MUTATING
    insert(database, was, kind)
    over = becomes not in OPEN
    change = (becomes.value, "X" if over else "", "0" * 64 if over else "")

    def update() -> None:
        database.execute("UPDATE ext_calls SET state = ?, code = ?, answer_sha256 = ?", change)

    if becomes in TRANSITIONS[was]:
        update()
    else:
        with pytest.raises(sqlite3.IntegrityError):
            update()


def test_the_ledger_and_its_answers_are_not_rewritten(database: sqlite3.Connection) -> None:
    """No row goes away, no claim changes afterwards, an answer stays as it was given."""
    insert(database, State.SENT, Kind.PURE)
    database.execute("INSERT INTO ext_answers VALUES ('c', 'end', x'00')")
    for statement in (
        "DELETE FROM ext_calls",
        "UPDATE ext_calls SET group_name = 'other'",
        "UPDATE ext_calls SET params_hmac = 'other'",
        "UPDATE ext_answers SET answer = x'01'",
        "INSERT OR REPLACE INTO ext_answers VALUES ('c', 'end', x'01')",
        "DELETE FROM ext_answers",
        "DELETE FROM ext_capabilities",
    ):
        database.execute("PRAGMA recursive_triggers = ON")
        if "ext_capabilities" in statement:
            database.execute(
                "INSERT INTO ext_capabilities VALUES ('i', 'g', 'p', '', 1, '[]', '[]', '', 'o',"
                " '2026-11-21T12:00:00.000000Z', '', 1, 1, 0)"
            )
        with pytest.raises(sqlite3.IntegrityError):
            database.execute(statement)


@pytest.mark.parametrize("level", [2, 3])
def test_no_grant_above_reading_is_without_an_end(database: sqlite3.Connection, level: int) -> None:
    """The database refuses it too."""
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(
            "INSERT INTO ext_capabilities VALUES ('i', 'g', 'p', '', ?, '[]', '[]', '', 'o',"
            " '2026-11-21T12:00:00.000000Z', '', 1, 1, 0)",
            (level,),
        )


def test_only_a_mutating_call_can_be_unknown_and_only_a_pure_one_begins_sent() -> None:
    """What a crash means depends on what the action does to the world."""
    assert {kind: state_without_reply(kind) for kind in Kind} == {
        Kind.PURE: State.TIMEOUT,
        Kind.READ: State.TIMEOUT,
        Kind.MUTATING: State.UNKNOWN,
    }
    assert [kind for kind in Kind if first_state(kind) is State.SENT] == [Kind.PURE]


RULES = (
    "call",
    "capability",
    "decision",
    "excerpt",
    "facts",
    "freeze",
    "granting",
    "ledger",
    "mending",
    "policy",
    "remedy",
    "visibility",
    "breaker",
    "budget",
    "settlement",
    "vote",
)


@pytest.mark.parametrize(
    "name",
    [
        *RULES,
        "checks.freeze",
        "checks.grant",
        "checks.limits",
        "checks.provider",
        "checks.request",
        "checks.spending",
        "checks.task",
        "checks.votes",
    ],
)
def test_rules_know_neither_database_nor_wire_nor_clock(name: str) -> None:
    """What decides imports the standard library, nanoclaw_core and other rules; no clock, no randomness, no I/O."""
    source = Path(policy.__file__).parent.joinpath(*name.split(".")).with_suffix(".py")
    imported = {
        module
        for node in ast.walk(ast.parse(source.read_text()))
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else _names(node))
    }
    allowed = {"collections.abc", "dataclasses", "datetime", "enum", "nanoclaw_core.canonical", "nanoclaw_core.clock"}
    allowed |= {"nanoclaw_core.errors", "nanoclaw_core.ids", "nanoclaw_core.principal", "nanoclaw_broker.checks"}
    assert imported <= allowed | {f"nanoclaw_broker.{rule}" for rule in (*RULES, "checks.votes")}
    assert "utc_now" not in source.read_text()


def _names(node: ast.AST) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
