"""Check 14: the task that the call is for, and the product that the grant is for."""

from nanoclaw_broker.capability import Capability, choose
from nanoclaw_broker.decision import Decision, Outcome, deny
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import TASK_STATES_TO_REVIEW, TASK_STATES_TO_WRITE, Check, Lane, Level


def required(facts: Facts, capability: Capability | None) -> Decision | None:
    """14. What can't be repeated safely is done for a task, so that there is something to vote on."""
    assert capability is not None
    if facts.level < Level.L3 or facts.task is not None:
        return None
    gate = capability.requires_task_gate
    return deny(Check.TASK, "TASK_REQUIRED", "an L3 call is made for a task", capability, requires_task_gate=gate)


def task(facts: Facts, capability: Capability | None) -> Decision | None:
    """14. The task named is there, and the group's to act for, in a state for it."""
    assert capability is not None
    task, ask = facts.task, facts.ask
    if task is None:
        return None
    if not task.found:
        return deny(Check.TASK, "TASK_NOT_FOUND", f"there is no task {task.id!r}", capability, task_id=task.id)
    known = {"task_id": task.id, "task_version": task.version, "task_state": task.state}
    if not _related(facts):
        message = f"task {task.id} is not one that group {ask.group} may act for here"
        return deny(Check.TASK, "TASK_NOT_YOURS", message, capability, task_id=task.id)
    if ask.attempt and task.bound_attempt and ask.attempt != task.bound_attempt:
        message = "another attempt acts for the group on this task now"
        return deny(Check.TASK, "STALE_ATTEMPT", message, capability, attempt=ask.attempt, **known)
    needed = _states_needed(facts)
    if needed and task.state not in needed:
        message = f"{facts.level.name} for task {task.id} needs it in {' or '.join(sorted(needed))}, not {task.state}"
        return deny(Check.TASK, "TASK_STATE", message, capability, needed=" ".join(sorted(needed)), **known)
    return None


def _related(facts: Facts) -> bool:
    """Reading: main, the assigned group, the gate's approver. More than reading: the assigned group alone.

    Thinking about a task is no more than reading it, so reviewers do it too.
    """
    assert facts.task is not None
    group = facts.ask.group
    if facts.level > Level.L1 and facts.ask.lane is not Lane.RELAY:
        return group == facts.task.assigned_group
    return facts.task.concerns(group)


def _states_needed(facts: Facts) -> frozenset[str]:
    """Writing: while it is worked on. A reviewer's reading: while it is reviewed. Empty: any.

    A relay is open for as long as its attempt lives, and an agent has its last thought after it moved its task.
    """
    assert facts.task is not None
    if facts.ask.lane is Lane.RELAY:
        return frozenset()
    if facts.level > Level.L1:
        return TASK_STATES_TO_WRITE
    if facts.ask.group in ("main", facts.task.assigned_group):
        return frozenset()
    return TASK_STATES_TO_REVIEW


def scope(facts: Facts, capability: Capability | None) -> Decision | None:
    """14. The grant is for the task's product; for the company where there is none."""
    assert capability is not None
    wanted = facts.wanted_product
    _, covers = choose(facts.capabilities, wanted, main=facts.ask.is_main)
    if covers:
        return None
    what = f"product {wanted}" if wanted else "the company" if facts.task else "calls without a task"
    return deny(
        Check.TASK,
        "PRODUCT_SCOPE",
        f"the grant for {facts.ask.provider} does not cover {what}",
        capability,
        wanted_product=wanted,
        granted_product=capability.product_id,
    )


def task_gate(facts: Facts, capability: Capability | None) -> Decision | None:
    """14. The gate that the grant requires is approved on the task, now; for L3 the task's own if it names none."""
    assert capability is not None
    gate = capability.requires_task_gate
    if not gate and facts.level >= Level.L3 and facts.task is not None:
        gate = facts.task.gate
    if not gate:
        return None
    if facts.task is None:
        message = f"the grant requires a task with its {gate} gate approved"
        return deny(Check.TASK, "TASK_REQUIRED", message, capability, requires_task_gate=gate)
    if facts.task.live_gates is None:
        return Decision(Outcome.ASK_APPROVALS, Check.TASK)
    if gate in facts.task.live_gates:
        return None
    message = f"the {gate} gate of task {facts.task.id} is not approved"
    return deny(Check.TASK, "GATE_NOT_APPROVED", message, capability, requires_task_gate=gate, task_id=facts.task.id)
