"""Who executed cannot approve, finish or override: however assigned, relabelled, reassigned or blocked in between."""

import pytest

from nanoclaw_core.principal import Caller


async def test_the_usual_way_ends_with_another_group(kernel, people) -> None:
    """developer works, security approves and finishes; the executors are derived from that."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    _, task, changed = await kernel.approve(people.security, task)
    assert changed
    done = await kernel.move(people.security, task, "DONE")
    assert done.state == "DONE"
    assert done.has_executed == ("group:developer",)


async def test_a_group_does_not_approve_or_finish_what_it_was_assigned(kernel, people, refused) -> None:
    """security's own task at security's own gate goes to main."""
    task = await kernel.at("APPROVAL", gate="SECURITY", assigned_group="security")
    with refused("SELF_APPROVAL"):
        await kernel.approve(people.security, task)
    await kernel.approve(people.main, task)
    with refused("SELF_APPROVAL"):
        await kernel.move(people.security, task, "DONE")
    assert (await kernel.move(people.main, task, "DONE")).state == "DONE"


async def test_reassigning_takes_nothing_back(kernel, people, refused) -> None:
    """Who held it in DOING stays an executor when the work goes to another group."""
    task = await kernel.at("DOING", gate="SECURITY", assigned_group="security")
    task = await kernel.assign(people.admin, task, "developer")
    assert task.has_executed == ("group:security", "group:developer")
    task = await kernel.walk(task, "APPROVAL")
    with refused("SELF_APPROVAL"):
        await kernel.approve(people.security, task)


async def test_blocking_and_starting_over_takes_nothing_back(kernel, people, refused) -> None:
    """Neither does a detour over BLOCKED and INBOX."""
    task = await kernel.at("DOING", gate="SECURITY", assigned_group="security")
    task = await kernel.move(people.security, task, "BLOCKED")
    task = await kernel.move(people.admin, task, "INBOX")
    task = await kernel.assign(people.admin, task, "developer")
    task = await kernel.walk(task, "APPROVAL")
    with refused("SELF_APPROVAL"):
        await kernel.approve(people.security, task)


async def test_relabelling_the_gate_takes_nothing_back(kernel, people, refused) -> None:
    """A gate that becomes the executor's own is still not the executor's to pass."""
    task = await kernel.at("APPROVAL", gate="PRODUCT", assigned_group="security")
    task = await kernel.update(people.admin, task, gate="SECURITY")
    with refused("SELF_APPROVAL"):
        await kernel.approve(people.security, task)


async def test_the_note_of_an_executor_decides_nothing(kernel, people) -> None:
    """`executor` is free text: naming somebody there neither binds nor frees anybody."""
    task = await kernel.create(assigned_group="developer", executor="group:security", gate="SECURITY")
    task = await kernel.walk(task, "APPROVAL")
    assert task.has_executed == ("group:developer",)
    assert (await kernel.approve(people.security, task))[2]


@pytest.mark.parametrize("helper", ["admin", "main"])
async def test_who_hands_the_work_in_has_executed_it(kernel, people, refused, helper: str) -> None:
    """An operator or main that takes DOING → REVIEW can't finish it, nor approve it, nor (an admin) override it."""
    caller = getattr(people, helper)
    task = await kernel.at("DOING", gate="SECURITY")
    task = await kernel.move(caller, task, "REVIEW")
    assert task.has_executed == ("group:developer", caller.principal)
    task = await kernel.move(people.dispatcher, task, "APPROVAL")
    with refused("SELF_APPROVAL"):
        await kernel.approve(caller, task)
    await kernel.approve(people.security, task)
    with refused("SELF_APPROVAL"):
        await kernel.move(caller, task, "DONE")
    if helper == "admin":
        with refused("SELF_APPROVAL"):
            await kernel.override(caller, task, "hurry")


async def test_without_a_gate_the_executor_does_not_finish_either(kernel, people, refused) -> None:
    """Gate NONE needs no approval, but a second pair of eyes."""
    task = await kernel.at("APPROVAL", assigned_group="main")
    with refused("SELF_APPROVAL"):
        await kernel.move(people.main, task, "DONE")
    assert (await kernel.move(people.approver, task, "DONE")).state == "DONE"


async def test_who_is_assigned_now_does_not_judge(kernel, people, refused) -> None:
    """Assigned after the work was done, it would do the rework: its own work either way."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    task = await kernel.assign(people.admin, task, "security")
    with refused("SELF_APPROVAL"):
        await kernel.approve(people.security, task)


async def test_a_task_that_nobody_could_approve_is_not_made(kernel, people, refused) -> None:
    """Create, assign and a change of gate leave at least one group that has not worked behind the gate."""
    with refused("NO_POSSIBLE_APPROVER"):
        await kernel.create(gate="PRODUCT", assigned_group="main")
    task = await kernel.create(gate="PRODUCT")
    with refused("NO_POSSIBLE_APPROVER"):
        await kernel.assign(people.admin, task, "main")
    task = await kernel.at("DOING", gate="SECURITY", assigned_group="security")
    with refused("NO_POSSIBLE_APPROVER"):
        await kernel.assign(people.admin, task, "main")
    task = await kernel.create(assigned_group="main", gate="SECURITY")
    with refused("NO_POSSIBLE_APPROVER"):
        await kernel.update(people.admin, task, gate="CLAIMS")


async def test_handing_in_does_not_take_the_last_approver(kernel, people, refused) -> None:
    """main may not hand in for another at its own gate: then only it could approve, and it has executed."""
    task = await kernel.at("DOING", gate="PRODUCT")
    with refused("NO_POSSIBLE_APPROVER"):
        await kernel.move(people.main, task, "REVIEW")


async def test_a_person_is_always_possible_at_a_human_gate(kernel, people, refused) -> None:
    """A gate marked human is for operators alone; main and the gate's group neither approve nor finish."""
    task = await kernel.at("APPROVAL", gate="SECURITY", human_gate=True)
    with refused("HUMAN_GATE"):
        await kernel.approve(people.main, task)
    with refused("TASK_NOT_FOUND"):
        await kernel.approve(people.security, task)
    await kernel.approve(people.approver, task)
    with refused("HUMAN_GATE"):
        await kernel.move(people.main, task, "DONE")
    assert (await kernel.move(people.approver, task, "DONE")).state == "DONE"


async def test_an_agent_does_not_open_a_human_gate(kernel, people, refused) -> None:
    """main may mark a gate human, and not unmark or remove it."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    task = await kernel.update(people.main, task, human_gate=True)
    for change in ({"human_gate": False}, {"gate": "PRODUCT"}, {"gate": "NONE", "human_gate": False}):
        with refused("NOT_PERMITTED"):
            await kernel.update(people.main, task, **change)
    assert (await kernel.update(people.admin, task, human_gate=False)).human_gate == 0


async def test_viewers_and_strangers_judge_nothing(kernel, people, refused) -> None:
    """A viewer may look; a group without a relation does not even learn that the task is there."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    with refused("NOT_PERMITTED"):
        await kernel.approve(people.viewer, task)
    with refused("NOT_PERMITTED"):
        await kernel.approve(people.broker, task)
    for operate in (kernel.approve, lambda who, which: kernel.move(who, which, "DONE")):
        with refused("TASK_NOT_FOUND"):
            await operate(people.stranger, task)
    with refused("TASK_NOT_FOUND"):
        await kernel.approve(Caller("group:"), task)
