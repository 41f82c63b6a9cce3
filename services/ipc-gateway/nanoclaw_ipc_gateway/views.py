"""What agents are shown of tasks and grants: JSON under the names that they know, null for what is not set."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_ipc_gateway.words import (
    GATE_WORDS,
    KIND_WORDS,
    LEVEL_NUMBERS,
    PRIORITY_WORDS,
    SCOPE_WORDS,
    STATE_WORDS,
    TASK_TYPE_WORDS,
)
from nanoclaw_rpc import times

AVAILABLE = "available"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def task(found: governance.Task) -> dict[str, Any]:
    """A task as in `gov_pipeline.json`, and in the answers to gov_* requests."""
    return {
        "id": found.id,
        "title": found.title,
        "description": found.description or None,
        "task_type": TASK_TYPE_WORDS.get(found.task_type),
        "state": STATE_WORDS.get(found.state),
        "priority": PRIORITY_WORDS.get(found.priority),
        "product": found.product or None,
        "product_id": found.product_id or None,
        "scope": SCOPE_WORDS.get(found.scope),
        "assigned_group": found.assigned_group or None,
        "executor": found.executor or None,
        "gate": GATE_WORDS.get(found.gate),
        "version": found.version,
        "created_at": times.from_timestamp(found.created_at),
        "updated_at": times.from_timestamp(found.updated_at),
    }


def task_text(found: governance.Task) -> str:
    """A task as JSON, for `pipeline`."""
    return _encode(task(found))


def pipeline(tasks: Iterable[str], now: str, *, truncated: bool = False) -> bytes:
    """`gov_pipeline.json` of tasks that are JSON already. truncated: there are more than a snapshot holds."""
    more = ',"truncated":true' if truncated else ""
    return f'{{"generatedAt":{_encode(now)},"tasks":[{",".join(tasks)}]{more}}}'.encode()


def grant(found: broker.Capability) -> dict[str, Any]:
    """A grant as in `ext_capabilities.json`."""
    return {
        "provider": found.provider,
        "access_level": LEVEL_NUMBERS.get(found.access_level, 0),
        "allowed_actions": list(found.allowed_actions) or None,
        "denied_actions": list(found.denied_actions),
        "requires_task_gate": found.requires_task_gate or None,
        "product_id": found.product_id or None,
        "expires_at": times.from_timestamp(found.expires_at) if found.HasField("expires_at") else None,
    }


def granted(found: broker.Capability) -> dict[str, Any]:
    """A grant in the answer to whoever granted or revoked it."""
    return {"id": found.id, "group_folder": found.group, **grant(found), "active": found.active}


def pending(found: broker.PendingCall) -> dict[str, Any]:
    """A call that waits for votes, as `ext_pending` answers it."""
    call = found.call
    return {
        "call_id": call.call_id,
        "group_folder": call.group,
        "provider": call.provider,
        "action": call.action,
        "task_id": call.task_id or None,
        "rendered": found.rendered,
        "params_digest": found.params_digest,
        "excluded": list(found.excluded),
        "votes_needed": found.votes_needed,
        "operator_needed": found.operator_needed,
        "votes": [vote.principal for vote in call.votes],
        "expires_at": times.from_timestamp(call.approval_expires_at),
    }


def voted(call: broker.CallRecord) -> dict[str, Any]:
    """A call in the answer to whoever voted on it."""
    state = broker.CallState.Name(call.state).removeprefix("CALL_STATE_")
    return {"call_id": call.call_id, "state": state, "votes": [vote.principal for vote in call.votes]}


def capability(found: broker.GroupCapability) -> dict[str, Any]:
    """A grant with what can be done under it."""
    return {**grant(found.capability), "actions": {one.name: _action(one) for one in found.actions}}


def _action(found: broker.ActionStatus) -> dict[str, Any]:
    """An action under a grant; what its parameters must be only where it may be called."""
    shown = {
        "level": LEVEL_NUMBERS.get(found.level, 0),
        "least_level": LEVEL_NUMBERS.get(found.least_level or found.level, 0),
        "kind": KIND_WORDS.get(found.kind),
        "description": found.description,
        "status": found.status,
    }
    if found.status != AVAILABLE:
        return shown
    return {**shown, "params_schema": _schema(found.params_schema_json)}


@lru_cache(maxsize=4096)
def _schema(text: str) -> Any:
    """The schema's value, parsed once; nobody may change it."""
    return json.loads(text) if text else {}


def capabilities(found: Iterable[dict[str, Any]], providers: Iterable[str], now: str) -> bytes:
    """`ext_capabilities.json`."""
    return _encode({"generatedAt": now, "capabilities": list(found), "providers_available": list(providers)}).encode()


SCHEDULED_TASKS = b"[]"
"""`current_tasks.json`: nothing is scheduled, since nobody serves schedule_task."""
