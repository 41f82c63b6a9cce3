"""An edit: every change of a task that is not a move, as one pure decision each."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import Kind, NanoclawError, Violation, denied, invalid
from nanoclaw_core.ids import check_group
from nanoclaw_core.principal import Caller
from nanoclaw_governance.draft import CHOOSE_GATE, refuse_unapprovable
from nanoclaw_governance.form import check_text, check_title, raise_invalid, required
from nanoclaw_governance.policy import Policy, Relation
from nanoclaw_governance.relation import fenced, relations
from nanoclaw_governance.task import Task, check_open, check_version, successor, with_executors

MAX_ITEMS = 200
"""Entries of a checklist, and of the evidence."""
MAX_LINK = 2048
"""Bytes."""
MAX_EVIDENCE = 512 * 1024
"""Bytes of all evidence with its notes: every answer about the task holds it."""

_OWNERS = frozenset({Relation.ADMIN, Relation.MAIN})
_WORKERS = _OWNERS | {Relation.ASSIGNED_GROUP}


class Edit(NamedTuple):
    """What comes of an edit: the columns that change (None: nothing does), and why approvals are void, if they are."""

    changes: dict[str, Any] | None = None
    voids: str = ""


class Assignment(NamedTuple):
    """A request to assign a task. executor is a note and decides nothing."""

    group: str
    executor: str = ""


class Details(NamedTuple):
    """A request to change what a task says about itself; None leaves as is."""

    title: str | None = None
    description: str | None = None
    priority: str | None = None
    gate: str | None = None
    human_gate: bool | None = None
    risk: str | None = None


class Checklist(NamedTuple):
    """A request to say what done means. items: None leaves them as they are."""

    items: Sequence[tuple[str, bool]] | None = None
    evidence_required: bool | None = None
    docs_updated: bool | None = None


def assign(task: Task, wanted: Assignment, caller: Caller, policy: Policy, now: str) -> Edit:
    """Gives the work to a group; in DOING that makes it an executor. Raises NO_POSSIBLE_APPROVER."""
    _permit(task, caller, _OWNERS, "assign")
    raise_invalid(list(check_text("executor", wanted.executor)))
    check_group("assigned_group", wanted.group)
    changes = _differing(task, {"assigned_group": wanted.group, "executor": wanted.executor})
    if "assigned_group" not in changes:
        return edited(task, changes, policy, now)
    if task.state == "DOING":
        changes["executors"] = with_executors(task, (f"group:{wanted.group}",))
    executors = json.loads(changes.get("executors", task.executors))
    refuse_unapprovable(task.gate, task.human_gate, wanted.group, executors)
    return edited(task, changes, policy, now, "the assignee changed")


def update(task: Task, wanted: Details, caller: Caller, policy: Policy, now: str) -> Edit:
    """Changes descriptive fields, priority or gate. Raises NO_POSSIBLE_APPROVER, NOT_PERMITTED, INVALID_FIELD."""
    _permit(task, caller, _OWNERS, "update")
    raise_invalid(
        [
            *(check_title(wanted.title) if wanted.title is not None else ()),
            *(check_text("description", wanted.description) if wanted.description is not None else ()),
        ]
    )
    fields = {**wanted._asdict(), "human_gate": None if wanted.human_gate is None else int(wanted.human_gate)}
    changes = _differing(task, {column: value for column, value in fields.items() if value is not None})
    if "gate" not in changes and "human_gate" not in changes:
        return edited(task, changes, policy, now)
    if task.human_gate and not caller.is_admin:
        raise denied(
            "NOT_PERMITTED",
            f"only a person may change the human gate of task {task.id}",
            "ask an operator",
            task=task.id,
        )
    gate, human_gate = changes.get("gate", task.gate), changes.get("human_gate", task.human_gate)
    if human_gate and gate == "NONE":
        raise invalid("human_gate", "needs a gate", f"{CHOOSE_GATE}, or send human_gate false as well")
    refuse_unapprovable(gate, human_gate, task.assigned_group, task.has_executed)
    return edited(task, changes, policy, now, "the gate changed")


def add_evidence(task: Task, link: str, note: str, caller: Caller, policy: Policy, now: str) -> Edit:
    """Adds a link to evidence; who approved before has not seen it."""
    _permit(task, caller, _WORKERS, "add evidence to")
    raise_invalid([*required("link", link, MAX_LINK), *check_text("note", note)])
    evidence = json.loads(task.evidence)
    if len(evidence) >= MAX_ITEMS:
        raise _too_much(f"task {task.id} has {MAX_ITEMS} links already")
    evidence.append({"link": link, "note": note, "added_by": caller.principal, "added_at": now})
    text = canonical(evidence)
    if len(text.encode()) > MAX_EVIDENCE:
        raise _too_much(f"the evidence of task {task.id} would have more than {MAX_EVIDENCE} bytes with its notes")
    return edited(task, {"evidence": text}, policy, now, "evidence was added")


def _too_much(message: str) -> NanoclawError:
    return NanoclawError(
        Kind.EXHAUSTED, "TOO_MUCH_EVIDENCE", message, next_step="link to one page that lists and explains it"
    )


def set_checklist(task: Task, wanted: Checklist, caller: Caller, policy: Policy, now: str) -> Edit:
    """Says what done means, whether evidence is required, and whether the docs are updated."""
    _permit(task, caller, _WORKERS, "set the checklist of")
    raise_invalid(list(_check_items(wanted.items or ())))
    fields: dict[str, Any] = {}
    if wanted.items is not None:
        fields["checklist"] = canonical([{"text": text, "done": done} for text, done in wanted.items])
    if wanted.evidence_required is not None:
        fields["evidence_required"] = int(wanted.evidence_required)
    if wanted.docs_updated is not None:
        fields["docs_updated"] = int(wanted.docs_updated)
    return edited(task, _differing(task, fields), policy, now, "the checklist changed")


def _check_items(items: Sequence[tuple[str, bool]]) -> Iterator[Violation]:
    if len(items) > MAX_ITEMS:
        yield Violation("INVALID_FIELD", f"at most {MAX_ITEMS} items", "split the task", "checklist")
    for number, (text, _) in enumerate(items):
        yield from required(f"checklist[{number}].text", text, MAX_LINK)


def check(task: Task, expected_version: int | None) -> None:
    """What every edit asks first. Raises STALE_VERSION and TASK_DONE."""
    if refusal := check_version(task, expected_version) or check_open(task):
        raise refusal


def _permit(task: Task, caller: Caller, permitted: frozenset[Relation], what: str) -> None:
    if permitted.isdisjoint(relations(task, caller)):
        raise denied(
            "NOT_PERMITTED",
            f"{caller.principal} may not {what} task {task.id}",
            f"ask one of: {', '.join(sorted(relation.value.replace('_', ' ') for relation in permitted))}",
            task=task.id,
        )
    for stale in fenced(task, caller):
        raise denied(stale.code, stale.message, stale.next_step, task=task.id)


def _differing(task: Task, wanted: dict[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in wanted.items() if value != getattr(task, column)}


def edited(task: Task, changes: dict[str, Any], policy: Policy, now: str, voids: str = "") -> Edit:
    """The edit that writes these columns; none if there are none."""
    if not changes:
        return Edit()
    return Edit(successor(task, now, policy.version, changes), voids)
