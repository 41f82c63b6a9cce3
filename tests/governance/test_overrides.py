"""An override: a person lets a task pass its gate, in the open, and is reminded of it."""

import json


async def test_it_lets_the_task_pass_and_opens_a_p0_follow_up(kernel, people) -> None:
    """Who, why, which risk, until when; the reminder carries the deadline."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    deadline = "2026-12-01T00:00:00.000000Z"
    task, reminder = await kernel.override(people.admin, task, "we must ship", "a leak", deadline)
    assert json.loads(task.override) == {
        "accepted_risk": "a leak",
        "by": "operator:founder",
        "follow_up_task_id": reminder.id,
        "gate": "SECURITY",
        "reason": "we must ship",
        "review_deadline": deadline,
    }
    assert (reminder.priority, reminder.state, reminder.gate) == ("P0", "INBOX", "NONE")
    assert json.loads(reminder.metadata) == {"override_of": task.id, "review_deadline": deadline}
    assert kernel.get(reminder) == reminder
    assert (await kernel.move(people.security, task, "DONE")).state == "DONE"
    assert "override" in kernel.actions(task)


async def test_only_a_person_overrides(kernel, people, refused) -> None:
    """Not main, unless the founder trusts it; not the group of the gate."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    for caller in (people.main, people.security, people.approver, people.dispatcher):
        with refused("NOT_PERMITTED"):
            await kernel.override(caller, task)


async def test_trust_main_lets_main_override_but_not_its_own_work(open_kernel, people, refused) -> None:
    """The setting restores the original's trust; executors stay executors."""
    kernel = await open_kernel(trust_main=True)
    task = await kernel.at("APPROVAL", gate="SECURITY")
    await kernel.override(people.main, task)
    own = await kernel.at("APPROVAL", gate="SECURITY", assigned_group="main")
    with refused("SELF_APPROVAL"):
        await kernel.override(people.main, own)


async def test_it_covers_the_gate_it_was_made_for(kernel, people, refused) -> None:
    """Another gate is another decision."""
    task = await kernel.at("APPROVAL", gate="CLAIMS")
    await kernel.override(people.admin, task)
    task = await kernel.update(people.main, task, gate="SECURITY")
    with refused("GATE_NOT_APPROVED"):
        await kernel.move(people.main, task, "DONE")


async def test_it_does_not_make_the_executor_a_judge(kernel, people, refused) -> None:
    """The gate is open; who worked behind it still does not finish."""
    task = await kernel.at("APPROVAL", gate="SECURITY", assigned_group="security")
    await kernel.override(people.admin, task)
    with refused("SELF_APPROVAL"):
        await kernel.move(people.security, task, "DONE")


async def test_it_needs_a_gate_a_reason_and_a_future(kernel, people, refused) -> None:
    """There is something to pass, somebody says why, and the review can still take place."""
    task = await kernel.at("REVIEW")
    with refused("NO_GATE"):
        await kernel.override(people.admin, task)
    task = await kernel.at("REVIEW", gate="SECURITY")
    with refused("INVALID_FIELD"):
        await kernel.override(people.admin, task, " ")
    with refused("INVALID_FIELD"):
        await kernel.override(people.admin, task, "why", "what", "2020-01-01T00:00:00.000000Z")


async def test_the_follow_up_of_a_dead_product_is_the_companys(kernel, people) -> None:
    """Nobody works on a killed product any more, but the review is still owed."""
    await kernel.product("Shop")
    task = await kernel.at("APPROVAL", gate="SECURITY", product="Shop")
    _, living = await kernel.override(people.admin, task)
    assert (living.scope, living.product_name) == ("PRODUCT", "Shop")
    await kernel.change_product(people.admin, "Shop", status="KILLED")
    _, dead = await kernel.override(people.admin, task)
    assert (dead.scope, dead.product_id) == ("COMPANY", "")
