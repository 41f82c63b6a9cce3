"""What an agent is told: the assignment for its rule, and the line on stdin that carries it."""

import sqlite3
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_agent.prompt import EXECUTOR, REVIEWER, Assignment
from nanoclaw_agent.session import Opening
from nanoclaw_dispatcher.dispatch import Rule
from nanoclaw_dispatcher.governance import gate_word

_PREFIXES = {
    "task_type": "TASK_TYPE_",
    "state": "TASK_STATE_",
    "previous_state": "TASK_STATE_",
    "priority": "PRIORITY_",
    "scope": "SCOPE_",
}
_FIELDS = (
    "id", "title", "description", "task_type", "state", "priority", "product", "product_id", "scope",
    "assigned_group", "executor", "gate", "version", "created_at", "updated_at",
)  # fmt: skip
_MORE = ("round", "rework_count", "review_summary", "checklist", "evidence", "metadata_json")


def task_fields(task: pb.Task) -> dict[str, Any]:
    """The task as the files spell it: the members of `gov_pipeline.json`, and what else an agent can use."""
    message = MessageToDict(task, preserving_proto_field_name=True)
    fields: dict[str, Any] = {name: message.get(name, "") for name in _FIELDS}
    fields |= {name: message[name] for name in _MORE if name in message}
    for name, prefix in _PREFIXES.items():
        if name in fields:
            fields[name] = str(fields[name]).removeprefix(prefix)
    return fields | {"gate": gate_word(task.gate) or "None", "version": task.version}


def prompt(rule: Rule, task: pb.Task, *, reason: str, context: Mapping[str, Any]) -> str:
    """The assignment: a reviewer's for rule 2, else an executor's, with why it is started again."""
    return Assignment(
        task=task_fields(task),
        role=REVIEWER if rule is Rule.REVIEW else EXECUTOR,
        reason=reason,
        context=context,
        gate=gate_word(task.gate),
    ).render()


def opening(attempt: sqlite3.Row, text: str, *, session_id: str, is_main: bool) -> str:
    """The line on stdin, with its line break."""
    return Opening(
        prompt=text,
        session_id=session_id,
        group_folder=attempt["group_name"],
        chat_jid=f"group:{attempt['group_name']}",
        is_main=is_main,
        task_id=attempt["task_id"],
        attempt=attempt["id"],
    ).line()


def again(because: str, failed: str) -> str:
    """Why an agent is started again: the task's reason, and how the attempt before ended, where there was one."""
    return "\n".join(
        part for part in (because, f"The attempt before this one failed: {failed}" if failed else "") if part
    )
