"""Tasks and their history, as people see them."""

import json
from typing import Any

import typer

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_cli.output import Columns
from nanoclaw_cli.words import GATES, PRIORITIES, RISKS, SCOPES, STATES, TYPES, when

COLUMNS: Columns = {
    "id": lambda task: task.id,
    "title": lambda task: task.title,
    "state": lambda task: STATES.word(task.state),
    "prio": lambda task: PRIORITIES.word(task.priority),
    "group": lambda task: task.assigned_group or "–",
    "gate": lambda task: GATES.word(task.gate) + (" (person)" if task.human_gate else ""),
    "product": lambda task: task.product or "–",
    "v": lambda task: task.version,
    "updated": lambda task: when(task, "updated_at"),
}

HISTORY: Columns = {
    "seq": lambda fact: fact.cursor.seq,
    "when": lambda fact: when(fact, "created_at"),
    "what": lambda fact: what(fact),
    "who": lambda fact: who(fact),
    "reason": lambda fact: fact.reason.partition("\n")[0][:120],
}


def fields(task: pb.Task) -> list[tuple[str, str]]:
    """Every field that has something to say."""
    trace = task.traceparent.split("-")[1] if task.traceparent.count("-") == 3 else ""
    return [
        ("id", task.id),
        ("title", task.title),
        ("state", STATES.word(task.state)),
        ("because", task.state_reason),
        ("blocked", _blocked(task)),
        ("type", TYPES.word(task.task_type)),
        ("priority", PRIORITIES.word(task.priority)),
        ("product", task.product or task.product_id),
        ("scope", SCOPES.word(task.scope)),
        ("group", task.assigned_group),
        ("gate", GATES.word(task.gate) + (", only a person" if task.human_gate else "")),
        ("approver", task.approver_group),
        ("risk", RISKS.word(task.risk)),
        ("version", str(task.version)),
        ("rounds", f"{task.round}, sent back {task.rework_count} times" if task.round else ""),
        ("executors", ", ".join(task.executors)),
        ("summary", task.review_summary),
        ("evidence", "\n".join(f"{one.link} {one.note}".strip() for one in task.evidence)),
        ("evidence is", _required(task)),
        ("checklist", "\n".join(f"[{'x' if item.done else ' '}] {item.text}" for item in task.checklist)),
        ("override", f"{task.override.by}: {task.override.reason}" if task.HasField("override") else ""),
        ("description", task.description),
        ("metadata", task.metadata_json if task.metadata_json not in ("", "{}") else ""),
        ("created", f"{when(task, 'created_at')} by {task.created_by}"),
        ("updated", when(task, "updated_at")),
        ("trace", trace),
    ]


def what(fact: pb.Activity) -> str:
    """`DOING → REVIEW`, or the action."""
    if fact.action == "transition":
        return f"{STATES.word(fact.from_state)} → {STATES.word(fact.to_state)}"
    return fact.action


def who(fact: pb.Activity) -> str:
    """The principal, and the attempt that it spoke from."""
    return f"{fact.principal} ({fact.attempt_id})" if fact.attempt_id else fact.principal


def line(fact: pb.Activity) -> str:
    """A fact on one line."""
    reason = fact.reason.partition("\n")[0][:120]
    return f"{when(fact, 'created_at')}  {fact.task_id:<28} {what(fact):<20} {who(fact)}  {reason}".rstrip()


def check_json(text: str) -> str:
    """A JSON object's text; empty stays empty. Raises BadParameter."""
    try:
        value: Any = json.loads(text or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"that is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("it must be a JSON object")
    return text


def _required(task: pb.Task) -> str:
    if not task.HasField("evidence_required"):
        return ""
    return "required" if task.evidence_required else "not required"


def _blocked(task: pb.Task) -> str:
    if task.state != pb.TASK_STATE_BLOCKED:
        return ""
    return f"from {STATES.word(task.blocked_from)} by {task.blocked_by}"
