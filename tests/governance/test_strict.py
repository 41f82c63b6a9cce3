"""Strict mode: what must be there before work begins, is handed in, and is done."""

import pytest

from nanoclaw_governance.policy import Policy
from nanoclaw_governance.transition import Move, decide


async def ready(strict, people, **fields):
    """A task that may enter DOING in strict mode."""
    task = await strict.at("READY", **fields)
    return await strict.set_checklist(people.admin, task, items=[("tested", False)], evidence_required=False)


async def test_doing_needs_a_checklist_and_a_word_about_evidence(strict, people, refused) -> None:
    """Both at once; either answer about evidence will do."""
    task = await strict.at("READY")
    with refused("MISSING_DOD_CHECKLIST") as caught:
        await strict.move(people.dispatcher, task, "DOING")
    codes = [violation.code for violation in caught.error.violations]
    assert codes == ["MISSING_DOD_CHECKLIST", "EVIDENCE_REQUIRED_NOT_SET"]
    await strict.set_checklist(people.developer, task, items=[("tested", False)], evidence_required=True)
    assert (await strict.move(people.dispatcher, task, "DOING")).state == "DOING"


async def test_handing_in_needs_a_summary(strict, people, refused) -> None:
    """The reason stands for it; a summary of the round before does not."""
    task = await ready(strict, people, gate="SECURITY")
    task = await strict.move(people.dispatcher, task, "DOING")
    with refused("MISSING_REVIEW_SUMMARY"):
        await strict.move(people.developer, task, "REVIEW", "")
    task = await strict.move(people.developer, task, "REVIEW", "", review_summary="done")
    task = await strict.move(people.security, task, "DOING", "not yet")
    with refused("MISSING_REVIEW_SUMMARY"):
        await strict.move(people.developer, task, "REVIEW", "")
    assert (await strict.move(people.developer, task, "REVIEW", "done now")).review_summary == "done now"


async def test_done_needs_the_checklist_done_docs_and_evidence(strict, people, refused) -> None:
    """Everything that is missing, at once; nothing more once it is there."""
    task = await strict.at("READY", task_type="SECURITY")
    task = await strict.set_checklist(people.admin, task, items=[("tested", False)], evidence_required=True)
    task = await strict.walk(task, "APPROVAL")
    with refused("DOD_INCOMPLETE") as caught:
        await strict.move(people.second_admin, task, "DONE")
    codes = [violation.code for violation in caught.error.violations]
    assert codes == ["DOD_INCOMPLETE", "DOCS_NOT_UPDATED", "MISSING_EVIDENCE_LINK"]
    await strict.set_checklist(people.developer, task, items=[("tested", True)], docs_updated=True)
    await strict.add_evidence(people.developer, task)
    assert (await strict.move(people.second_admin, task, "DONE")).state == "DONE"


@pytest.mark.parametrize(
    ("task_type", "needed"),
    [(kind, kind in {"SECURITY", "REVOPS", "INCIDENT", "FEATURE"})
     for kind in ("EPIC", "FEATURE", "BUG", "SECURITY", "REVOPS", "OPS", "RESEARCH", "CONTENT", "DOC", "INCIDENT")],
)  # fmt: skip
async def test_docs_are_asked_of_four_types(strict, people, refused, task_type: str, needed: bool) -> None:
    """SECURITY, REVOPS, INCIDENT and FEATURE are done with their docs."""
    task = await ready(strict, people, task_type=task_type)
    task = await strict.set_checklist(people.admin, task, items=[("tested", True)])
    task = await strict.walk(task, "APPROVAL")
    if needed:
        with refused("DOCS_NOT_UPDATED"):
            await strict.move(people.second_admin, task, "DONE")
        await strict.set_checklist(people.admin, task, docs_updated=True)
    assert (await strict.move(people.second_admin, task, "DONE")).state == "DONE"


async def test_an_override_is_complete_or_refused(strict, people, refused) -> None:
    """Reason, accepted risk and deadline; who is known."""
    task = await ready(strict, people, gate="SECURITY")
    with refused("OVERRIDE_MISSING_ACCEPTED_RISK") as caught:
        await strict.override(people.admin, task, "we must ship")
    codes = [violation.code for violation in caught.error.violations]
    assert codes == ["OVERRIDE_MISSING_ACCEPTED_RISK", "OVERRIDE_MISSING_REVIEW_DEADLINE"]
    await strict.override(people.admin, task, "we must ship", "a leak", "2026-12-01T00:00:00.000000Z")


async def test_an_override_from_before_strict_mode_is_looked_at_again(kernel, people) -> None:
    """What was left out then is asked for at DONE."""
    task = await kernel.at("APPROVAL", gate="SECURITY")
    task, _ = await kernel.override(people.admin, task, "we must ship")
    refusal = decide(task, Move("DONE"), people.main, Policy(strict=True), task.updated_at).refusal
    assert refusal is not None
    codes = [violation.code for violation in refusal.violations]
    assert codes == [
        "MISSING_DOD_CHECKLIST", "OVERRIDE_MISSING_ACCEPTED_RISK", "OVERRIDE_MISSING_REVIEW_DEADLINE"
    ]  # fmt: skip


async def test_the_default_asks_for_none_of_it(kernel, people) -> None:
    """Strictness is an operator's setting."""
    task = await kernel.at("READY", task_type="FEATURE")
    task = await kernel.move(people.dispatcher, task, "DOING")
    task = await kernel.move(people.developer, task, "REVIEW", "")
    task = await kernel.walk(task, "APPROVAL")
    assert (await kernel.move(people.admin, task, "DONE")).state == "DONE"
