"""Edits: who may change what about a task, and what is never changed."""

import json

import pytest

from nanoclaw_governance import edits
from nanoclaw_governance.edit import Assignment

EDITS = {
    "assign": lambda kernel, who, task: kernel.assign(who, task, "designer"),
    "update": lambda kernel, who, task: kernel.update(who, task, title="New"),
    "evidence": lambda kernel, who, task: kernel.add_evidence(who, task),
    "checklist": lambda kernel, who, task: kernel.set_checklist(who, task, items=[("x", False)]),
    "override": lambda kernel, who, task: kernel.override(who, task),
}
MAY = {
    "assign": {"admin", "main"},
    "update": {"admin", "main"},
    "evidence": {"admin", "main", "developer"},
    "checklist": {"admin", "main", "developer"},
    "override": {"admin"},
}


@pytest.mark.parametrize("edit", EDITS)
async def test_only_those_of_the_table_may_edit(kernel, people, edit: str) -> None:
    """Admins and main; the assigned group for evidence and checklist; an override is for persons."""
    for name in ("admin", "approver", "viewer", "main", "developer", "security", "stranger", "dispatcher", "broker"):
        task = await kernel.at("READY", gate="SECURITY")
        expected = "" if name in MAY[edit] else "TASK_NOT_FOUND" if name == "stranger" else "NOT_PERMITTED"
        got = ""
        try:
            await EDITS[edit](kernel, getattr(people, name), task)
        except Exception as error:
            got = error.reason
        assert got == expected, name


@pytest.mark.parametrize("edit", EDITS)
async def test_what_is_done_does_not_change(kernel, people, refused, edit: str) -> None:
    """DONE is final for edits too."""
    task = await kernel.at("APPROVAL", gate="PRODUCT")
    await kernel.approve(people.main, task)
    await kernel.move(people.main, task, "DONE")
    with refused("TASK_DONE"):
        await EDITS[edit](kernel, people.admin, task)


async def test_every_change_raises_the_version_by_one_and_no_other_does(kernel, people) -> None:
    """Edits that change nothing leave the version, and no fact."""
    task = await kernel.create(assigned_group="developer")
    for edit in ("update", "checklist", "assign"):
        before, rows = kernel.get(task), len(kernel.log(task))
        after = await EDITS[edit](kernel, people.admin, task)
        assert after.version == before.version + 1
        again = await EDITS[edit](kernel, people.admin, task)
        assert again == after
        assert len(kernel.log(task)) == rows + 1


async def test_a_stale_expected_version_edits_nothing(kernel, people, refused) -> None:
    """Each edit takes an expected version and tells the version that stands."""
    task = await kernel.create()
    with refused("STALE_VERSION") as caught:
        await kernel.do(people.admin, lambda tx, act: edits.assign(tx, act, task.id, 3, Assignment("developer")))
    assert caught.error.facts == {"expected": "3", "actual": "1", "state": "INBOX"}


async def test_evidence_is_added_with_who_and_when(kernel, people, refused) -> None:
    """Evidence only ever grows, up to a limit; a link is required."""
    task = await kernel.create(assigned_group="developer")
    task = await kernel.add_evidence(people.developer, task, "https://ci/1", "green")
    task = await kernel.add_evidence(people.main, task, "notes.md")
    added = json.loads(task.evidence)
    assert [(item["link"], item["added_by"]) for item in added] == [
        ("https://ci/1", "group:developer"),
        ("notes.md", "group:main"),
    ]
    for link in (" ", "x" * 2049):
        with refused("INVALID_FIELD"):
            await kernel.add_evidence(people.developer, task, link)


async def test_evidence_and_checklists_have_limits(kernel, people, refused) -> None:
    """A row does not grow without end."""
    task = await kernel.create(assigned_group="developer")
    with refused("INVALID_FIELD"):
        await kernel.set_checklist(people.admin, task, items=[("x", False)] * 201)
    with refused("INVALID_FIELD"):
        await kernel.set_checklist(people.admin, task, items=[(" ", False)])
    for number in range(200):
        task = await kernel.add_evidence(people.admin, task, f"https://ci/{number}")
    with refused("TOO_MUCH_EVIDENCE"):
        await kernel.add_evidence(people.admin, task)


async def test_an_assignment_names_a_group(kernel, people, refused) -> None:
    """The form of a group's name is checked; whether it exists the dispatcher finds out."""
    task = await kernel.create()
    for group in ("", "Developer", "../x"):
        with refused("INVALID_FIELD"):
            await kernel.assign(people.admin, task, group)


async def test_reassigning_in_doing_makes_an_executor_and_elsewhere_does_not(kernel, people) -> None:
    """Executors held it in DOING."""
    task = await kernel.at("READY")
    task = await kernel.assign(people.admin, task, "designer")
    assert task.has_executed == ()
    task = await kernel.move(people.dispatcher, task, "DOING")
    task = await kernel.assign(people.admin, task, "developer")
    assert task.has_executed == ("group:designer", "group:developer")


async def test_a_human_gate_needs_a_gate(kernel, people, refused) -> None:
    """There is no person to ask where there is nothing to ask."""
    with refused("INVALID_FIELD"):
        await kernel.create(human_gate=True)
    task = await kernel.create(gate="SECURITY", human_gate=True)
    with refused("INVALID_FIELD"):
        await kernel.update(people.admin, task, gate="NONE")
    task = await kernel.update(people.admin, task, gate="NONE", human_gate=False)
    assert (task.gate, task.human_gate) == ("NONE", 0)


async def test_texts_have_limits(kernel, people, refused) -> None:
    """Titles 500 characters, longer texts 64 KiB."""
    task = await kernel.create(title="x" * 500, description="x" * 65536)
    for fields in ({"title": ""}, {"title": "x" * 501}, {"description": "é" * 32769}):
        with refused("INVALID_FIELD"):
            await kernel.update(people.admin, task, **fields)
        with refused("INVALID_FIELD"):
            await kernel.create(**fields)
