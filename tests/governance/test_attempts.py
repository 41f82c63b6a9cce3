"""Attempts are fenced: what was superseded changes nothing any more."""

import json

import pytest

MUTATIONS = {
    "move": lambda kernel, who, task: kernel.move(who, task, "BLOCKED"),
    "evidence": lambda kernel, who, task: kernel.add_evidence(who, task),
    "checklist": lambda kernel, who, task: kernel.set_checklist(who, task, items=[("x", True)]),
    "assign": lambda kernel, who, task: kernel.assign(who, task, "designer"),
    "update": lambda kernel, who, task: kernel.update(who, task, title="x"),
    "approve": lambda kernel, who, task: kernel.approve(who, task),
    "override": lambda kernel, who, task: kernel.override(who, task),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_superseded_attempt_changes_nothing(open_kernel, people, refused, mutation: str) -> None:
    """The bound attempt may, the one before may not, and a standing mailbox is not fenced."""
    kernel = await open_kernel(trust_main=True)
    task = await kernel.at("REVIEW", gate="SECURITY")
    await kernel.bind(task, "main", "nc-1", 1)
    await kernel.bind(task, "main", "nc-2", 2)
    before = kernel.get(task)
    with refused("STALE_ATTEMPT"):
        await MUTATIONS[mutation](kernel, people.in_attempt(people.main, "nc-1"), task)
    assert kernel.get(task) == before
    await MUTATIONS[mutation](kernel, people.in_attempt(people.main, "nc-2"), task)


async def test_an_attempt_fences_its_own_group_on_its_own_task_only(kernel, people) -> None:
    """Other groups, other tasks and the standing mailbox go on."""
    task = await kernel.at("DOING", gate="SECURITY")
    other = await kernel.at("DOING")
    await kernel.bind(task, "security", "nc-9", 9)
    await kernel.add_evidence(people.in_attempt(people.developer, "nc-1"), task)
    await kernel.add_evidence(people.in_attempt(people.developer, "nc-1"), other)
    await kernel.bind(task, "developer", "nc-2", 2)
    await kernel.add_evidence(people.developer, task)


async def test_a_superseded_attempt_does_not_finish(kernel, people, refused) -> None:
    """Also on the last edge."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    await kernel.approve(people.security, task)
    await kernel.bind(task, "security", "nc-2", 2)
    with refused("STALE_ATTEMPT"):
        await kernel.move(people.in_attempt(people.security, "nc-1"), task, "DONE")


async def test_a_fence_only_ever_rises(kernel, people, refused) -> None:
    """An older attempt does not come back; binding the same again is harmless."""
    task = await kernel.at("READY")
    await kernel.bind(task, "developer", "nc-2", 2)
    rows = len(kernel.log())
    await kernel.bind(task, "developer", "nc-2", 2)
    assert len(kernel.log()) == rows
    for attempt, fence in (("nc-1", 1), ("nc-3", 2), ("nc-2", 1)):
        with refused("STALE_FENCE"):
            await kernel.bind(task, "developer", attempt, fence)
    bound = await kernel.bind(task, "developer", "nc-3", 3)
    assert json.loads(bound.attempts) == [["developer", "nc-3", 3]]


async def test_binding_does_not_move_the_version(kernel) -> None:
    """An agent's expected version still holds when its attempt is bound."""
    task = await kernel.at("READY")
    bound = await kernel.bind(task, "developer", "nc-1", 1)
    assert bound.version == task.version
    assert kernel.actions(task)[-1] == "bind_attempt"


async def test_what_is_bound_is_checked(kernel, refused) -> None:
    """Group, attempt and task have their forms."""
    task = await kernel.create()
    for group, attempt in (("Dev", "nc-1"), ("developer", "a/b"), ("developer", "")):
        with refused("INVALID_FIELD"):
            await kernel.bind(task, group, attempt, 1)
    with refused("TASK_NOT_FOUND"):
        await kernel.bind("nowhere", "developer", "nc-1", 1)
