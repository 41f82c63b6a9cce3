"""An approval covers what was seen, and nothing that came after."""

import hashlib
import json

import pytest

from nanoclaw_core.canonical import canonical
from nanoclaw_governance import approvals
from nanoclaw_governance.approval import decide, possible_approvers, seen
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.transition import Move
from nanoclaw_governance.transition import decide as decide_move


async def test_it_records_round_version_and_digest_of_what_was_seen(kernel, people) -> None:
    """The digest is over summary, evidence and checklist, so that anybody can check it later."""
    task = await kernel.at("DOING", gate="SECURITY")
    task = await kernel.add_evidence(people.developer, task, "https://ci/7", "green")
    task = await kernel.set_checklist(people.developer, task, items=[("tested", True)])
    task = await kernel.move(people.developer, task, "REVIEW", "done: 50% faster")
    approval, after, changed = await kernel.approve(people.security, task, notes="read it")
    assert changed
    assert (approval.round, approval.task_version, approval.approved_by) == (1, task.version, "group:security")
    evidence = [{"added_at": kernel_time(task), "added_by": "group:developer", "link": "https://ci/7", "note": "green"}]
    content = {
        "summary": "done: 50% faster",
        "evidence": evidence,
        "checklist": [{"text": "tested", "done": True}],
    }
    assert approval.digest == hashlib.sha256(canonical(content).encode()).hexdigest() == seen(after)
    assert after.version == task.version, "an approval is about a version; it does not make a new one"


def kernel_time(task) -> str:
    """When the task's only evidence was added."""
    return json.loads(task.evidence)[0]["added_at"]


@pytest.mark.parametrize("state", ["INBOX", "TRIAGED", "READY", "DOING", "BLOCKED"])
async def test_it_is_accepted_only_where_there_is_something_to_see(kernel, people, refused, state: str) -> None:
    """Nothing is approved in advance."""
    task = await kernel.at("DOING" if state == "BLOCKED" else state, gate="SECURITY")
    if state == "BLOCKED":
        task = await kernel.move(people.developer, task, "BLOCKED")
    with refused("NOTHING_TO_APPROVE"):
        await kernel.approve(people.security, task)


async def test_only_the_tasks_own_gate_is_approved(kernel, people, refused) -> None:
    """Another gate's approval would say nothing, and gate NONE needs none."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    with refused("GATE_MISMATCH"):
        await kernel.approve(people.main, task, "PRODUCT")
    task = await kernel.at("REVIEW")
    for gate in ("NONE", "SECURITY"):
        with refused("GATE_MISMATCH"):
            await kernel.approve(people.main, task, gate)


async def test_without_an_approval_the_gate_stays_shut(kernel, people, refused) -> None:
    """Also for main and an admin: they approve first, so that the log shows it."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    for caller in (people.security, people.main, people.second_admin, people.approver):
        with refused("GATE_NOT_APPROVED"):
            await kernel.move(caller, task, "DONE")


async def test_who_approves_twice_has_approved_once(kernel, people, refused) -> None:
    """The same principal gets its own again; another one learns that it is done."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    first, _, _ = await kernel.approve(people.security, task)
    again, _, changed = await kernel.approve(people.security, task)
    assert (again, changed) == (first, False)
    with refused("ALREADY_APPROVED"):
        await kernel.approve(people.main, task)
    assert len(kernel.live(task)) == 1


async def test_nothing_is_approved_that_is_done(kernel, people, refused) -> None:
    """Not even again, by who approved it before: nothing about it changes any more, and the answer says so."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    await kernel.approve(people.security, task)
    await kernel.move(people.security, task, "DONE")
    for caller in (people.security, people.main, people.second_admin):
        with refused("TASK_DONE"):
            await kernel.approve(caller, task)


async def test_it_does_not_outlive_rework(kernel, people, refused) -> None:
    """Entering DOING voids it, and the row stays with the reason."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    await kernel.approve(people.security, task)
    task = await kernel.move(people.security, task, "DOING", "one more test")
    assert kernel.live(task) == []
    assert task.approved_by == ""
    task = await kernel.walk(task, "APPROVAL")
    with refused("GATE_NOT_APPROVED"):
        await kernel.move(people.security, task, "DONE")
    assert "void_approval" in kernel.actions(task)
    approval, _, changed = await kernel.approve(people.security, task)
    assert changed
    assert approval.round == 2


async def test_what_is_void_stays_as_it_was_voided(kernel, people) -> None:
    """Each round voids its own approval; the rows of the rounds before keep when and why."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    for _ in range(2):
        await kernel.approve(people.security, task)
        task = await kernel.move(people.security, task, "DOING", "again")
        task = await kernel.move(people.developer, task, "REVIEW")
    voided = kernel.database.read(lambda tx: approvals.page(tx, task.id, False, "", 10))
    assert {approval.round for approval in voided} == {1, 2}
    assert len({approval.voided_at for approval in voided}) == 2
    assert kernel.actions(task).count("void_approval") == 2


async def test_it_does_not_outlive_a_detour_over_blocked(kernel, people) -> None:
    """Every way back to work leads through DOING."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    await kernel.approve(people.security, task)
    task = await kernel.move(people.security, task, "BLOCKED", "waits for a key")
    task = await kernel.move(people.admin, task, "DOING")
    assert kernel.live(task) == []


CHANGES = {
    "evidence": lambda kernel, people, task: kernel.add_evidence(people.developer, task),
    "checklist": lambda kernel, people, task: kernel.set_checklist(people.developer, task, items=[("x", True)]),
    "evidence_required": lambda kernel, people, task: kernel.set_checklist(people.main, task, evidence_required=False),
    "docs_updated": lambda kernel, people, task: kernel.set_checklist(people.main, task, docs_updated=True),
    "gate": lambda kernel, people, task: kernel.update(people.admin, task, gate="PRODUCT"),
    "human_gate": lambda kernel, people, task: kernel.update(people.admin, task, human_gate=True),
    "assignee": lambda kernel, people, task: kernel.assign(people.admin, task, "designer"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_it_does_not_outlive_a_change_of_what_was_seen(kernel, people, change: str) -> None:
    """Evidence, checklist, gate, assignee: each voids it, by a fact of its own in the log."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    approval, _, _ = await kernel.approve(people.security, task)
    task = await CHANGES[change](kernel, people, task)
    assert kernel.live(task) == []
    row = kernel.log(task)[-1]
    assert (row["action"], row["subject"]) == ("void_approval", approval.id)


async def test_changes_of_nothing_that_was_seen_leave_it(kernel, people) -> None:
    """A title, a priority, a note of the executor, and edits that change nothing."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    task = await kernel.set_checklist(people.main, task, evidence_required=False)
    await kernel.approve(people.security, task)
    await kernel.update(people.admin, task, title="Fix the login", priority="P0", risk="HIGH", gate="SECURITY")
    await kernel.assign(people.admin, task, "developer", "ana")
    await kernel.set_checklist(people.main, task, evidence_required=False, items=[])
    assert len(kernel.live(task)) == 1
    assert (await kernel.move(people.security, task, "DONE")).state == "DONE"


async def test_changes_requested_leave_it_until_work_begins(kernel, people) -> None:
    """APPROVAL → REVIEW changes nothing that was seen; DOING does."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    await kernel.approve(people.security, task)
    task = await kernel.move(people.security, task, "REVIEW", "rename it")
    assert len(kernel.live(task)) == 1
    task = await kernel.move(people.dispatcher, task, "DOING", "rename it")
    assert kernel.live(task) == []


async def test_an_approval_of_an_executor_counts_for_nothing(kernel, people) -> None:
    """Even if one came to stand, which no path allows, DONE looks again."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    _, task, _ = await kernel.approve(people.security, task)
    forged = task._replace(executors='["group:developer","group:security"]')
    refusal = decide_move(forged, Move("DONE"), people.main, Policy(), task.updated_at).refusal
    assert refusal is not None
    assert refusal.reason == "GATE_NOT_APPROVED"


async def test_a_stale_version_comes_first(kernel, people) -> None:
    """Who approves names the version it has seen, if it wants to be sure."""
    task = await kernel.at("REVIEW", gate="SECURITY")
    refusal = decide(task, "SECURITY", people.stranger, task.version - 1).refusal
    assert refusal is not None
    assert refusal.reason == "STALE_VERSION"


def test_the_possible_approvers_are_the_gates_group_then_main() -> None:
    """Minus whoever works or worked behind it."""
    assert possible_approvers("SECURITY", "developer", ()) == ("security", "main")
    assert possible_approvers("SECURITY", "security", ()) == ("main",)
    assert possible_approvers("SECURITY", "developer", ("group:security",)) == ("main",)
    assert possible_approvers("SECURITY", "main", ("group:security",)) == ()
    assert possible_approvers("PRODUCT", "developer", ()) == ("main",)
    assert possible_approvers("NONE", "developer", ()) == ()
