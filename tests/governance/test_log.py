"""The log: every fact a row, the state its fold, and what was tampered with found."""

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from nanoclaw_governance import tasks
from nanoclaw_governance.act import Act
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.tables import METADATA, SLICE
from nanoclaw_store import verify
from nanoclaw_store.testing import assert_schema_matches


def opened(kernel: Any) -> "closing[sqlite3.Connection]":
    """The kernel's database, looked at or tampered with from outside."""
    return closing(sqlite3.connect(kernel.database.path, isolation_level=None))


def test_the_tables_are_those_of_the_migrations() -> None:
    """tables.py and the SQL say the same, indexes included."""
    assert_schema_matches(SLICE, METADATA)


async def test_the_indexes_are_those_of_the_migrations(kernel) -> None:
    """Every index that tables.py declares is there."""
    with opened(kernel) as connection:
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE sql NOTNULL")}
    declared = {index.name for table in METADATA.tables.values() for index in table.indexes}
    assert declared
    assert declared <= there


async def test_a_tasks_whole_story_is_in_the_log(kernel, people) -> None:
    """Every action of the design, in order, with who, from where to where, and why."""
    task = await kernel.create(assigned_group="developer", gate="SECURITY", scope="PRODUCT")
    task = await kernel.update(people.main, task, priority="P0")
    task = await kernel.set_checklist(people.main, task, items=[("tested", False)])
    task = await kernel.walk(task, "READY")
    await kernel.bind(task, "developer", "nc-1", 1)
    task = await kernel.move(people.dispatcher, task, "DOING", "dispatched")
    task = await kernel.add_evidence(people.in_attempt(people.developer, "nc-1"), task)
    task = await kernel.move(people.in_attempt(people.developer, "nc-1"), task, "REVIEW", "all green")
    await kernel.approve(people.security, task)
    task = await kernel.assign(people.main, task, "designer")
    task = await kernel.move(people.main, task, "APPROVAL")
    task, _ = await kernel.override(people.admin, task)
    await kernel.move(people.main, task, "DONE")
    assert kernel.actions(task) == [
        "create", "coerce_scope", "update", "checklist", "transition", "transition", "bind_attempt", "transition",
        "evidence", "transition", "execution_summary", "approve", "assign", "void_approval", "transition", "override",
        "transition",
    ]  # fmt: skip
    handed_in = kernel.log(task)[9]
    assert {
        name: handed_in[name] for name in ("from_state", "to_state", "principal", "via", "attempt_id", "reason")
    } == {
        "from_state": "DOING",
        "to_state": "REVIEW",
        "principal": "group:developer",
        "via": "service:gateway",
        "attempt_id": "nc-1",
        "reason": "all green",
    }
    for row in kernel.log(task):
        assert row["policy_version"] == "1.0.0"
        assert row["request_ref"].startswith("r")
        assert row["trace_id"] == task.traceparent[3:35]


async def test_a_refusal_leaves_no_trace(kernel, people, refused) -> None:
    """Neither in the log nor in the task."""
    task = await kernel.at("READY")
    rows = len(kernel.log())
    with refused("NO_SUCH_EDGE"):
        await kernel.move(people.admin, task, "DONE")
    assert len(kernel.log()) == rows
    assert kernel.get(task) == task


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE gov_tasks SET executors = '[]', version = version + 1",
        "UPDATE gov_tasks SET state = 'APPROVAL', version = version + 1",
        "INSERT INTO gov_approvals"
        " SELECT 'forged', id, gate, 'group:main', '', 1, 1, printf('%064d', 0), updated_at, '', '' FROM gov_tasks",
        "DELETE FROM gov_attempts",
        "UPDATE products SET status = 'ACTIVE'",
    ],
)
async def test_state_that_is_not_the_fold_is_found(kernel, people, databases, tampering: str) -> None:
    """Whoever writes past the kernel is found by the verification."""
    await kernel.product("Shop")
    await kernel.change_product(people.admin, "Shop", status="PAUSED")
    task = await kernel.at("REVIEW", gate="SECURITY")
    await kernel.bind(task, "developer", "nc-1", 1)
    assert verify(kernel.database.path).ok
    with opened(kernel) as connection:
        connection.execute(tampering)
    connection.close()
    report = verify(kernel.database.path)
    assert not report.ok
    assert report.findings
    databases.clear()  # it is broken, as it should be


async def test_a_stale_writer_changes_nothing(kernel, people, refused) -> None:
    """Compare-and-set in SQL: what was decided on another version or state is not written, whoever decided it."""
    stale = await kernel.at("TRIAGED")
    task = await kernel.move(people.admin, stale, "READY")
    for decided_on in (stale, task._replace(state="TRIAGED"), task._replace(version=task.version + 1)):
        changes = {"state": "BLOCKED", "version": decided_on.version + 1, "updated_at": task.updated_at}
        with refused("STALE_VERSION"):
            await kernel.do(
                people.admin,
                lambda tx, act, old=decided_on, new=changes: tasks.change(tx, act, old, new, "transition"),
            )
    assert kernel.get(task) == task


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE gov_activities SET reason = 'x'",
        "DELETE FROM gov_activities",
        "DELETE FROM gov_approvals",
        "UPDATE gov_tasks SET title = 'x'",
        "UPDATE gov_tasks SET state = 'NOWHERE', version = version + 1",
        "UPDATE gov_tasks SET blocked_from = 'DOING', version = version + 1",
        "UPDATE gov_approvals SET voided_at = '', void_reason = '' WHERE voided_at <> ''",
        "UPDATE gov_attempts SET fence = 1",
    ],
)
async def test_the_database_refuses_what_the_rules_do(kernel, people, sql: str) -> None:
    """Append-only log, rising versions and fences, known states, voided for ever: by CHECK and trigger too."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    await kernel.approve(people.security, task)
    await kernel.bind(task, "security", "nc-2", 2)
    await kernel.move(people.security, task, "DOING")
    with opened(kernel) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(sql)


async def test_done_is_final_in_the_database_too(kernel, people) -> None:
    """Even a statement that raises the version does not change what is done."""
    task = await kernel.at("DONE")
    with opened(kernel) as connection, pytest.raises(sqlite3.IntegrityError, match="done"):
        connection.execute("UPDATE gov_tasks SET state = 'DOING', version = version + 1 WHERE id = ?", (task.id,))


def test_facts_of_a_unit_that_runs_twice_are_told_once(people) -> None:
    """The writer may run a unit again after a failed commit."""
    act = Act(people.admin, Policy())
    act.begin()
    act.facts.append(None)  # type: ignore[arg-type]
    act.begin()
    assert act.facts == []
    assert act.ran
