"""The words of the files and the enums of the contracts: one table for each, both ways."""

import re
from collections.abc import Iterable

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as governance


def _words(items: Iterable[tuple[str, int]], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): value for name, value in items if value}


def _back(words: dict[str, int]) -> dict[int, str]:
    return {value: word for word, value in words.items()}


STATES = _words(governance.TaskState.items(), "TASK_STATE_")
TASK_TYPES = _words(governance.TaskType.items(), "TASK_TYPE_")
PRIORITIES = _words(governance.Priority.items(), "PRIORITY_")
SCOPES = _words(governance.Scope.items(), "SCOPE_")
GATES: dict[str, int] = {
    "None": governance.GATE_NONE,
    "Security": governance.GATE_SECURITY,
    "RevOps": governance.GATE_REVOPS,
    "Claims": governance.GATE_CLAIMS,
    "Product": governance.GATE_PRODUCT,
}
LEVELS: dict[int, int] = {
    0: broker.ACCESS_LEVEL_L0,
    1: broker.ACCESS_LEVEL_L1,
    2: broker.ACCESS_LEVEL_L2,
    3: broker.ACCESS_LEVEL_L3,
}
CALL_STATUSES: dict[int, str] = {
    broker.CALL_STATUS_EXECUTED: "executed",
    broker.CALL_STATUS_DENIED: "denied",
    broker.CALL_STATUS_FAILED: "failed",
    broker.CALL_STATUS_TIMEOUT: "timeout",
}

STATE_WORDS = _back(STATES)
TASK_TYPE_WORDS = _back(TASK_TYPES)
PRIORITY_WORDS = _back(PRIORITIES)
SCOPE_WORDS = _back(SCOPES)
GATE_WORDS = _back(GATES)
KIND_WORDS: dict[int, str] = {
    broker.ACTION_KIND_PURE: "pure",
    broker.ACTION_KIND_READ: "read",
    broker.ACTION_KIND_MUTATING: "mutating",
}
LEVEL_NUMBERS = {value: number for number, value in LEVELS.items()}

_SPELLINGS: dict[str, str] = {
    **{f"TASK_STATE_{word}": word for word in STATES},
    **{f"TASK_TYPE_{word}": word for word in TASK_TYPES},
    **{f"PRIORITY_{word}": word for word in PRIORITIES},
    **{f"SCOPE_{word}": word for word in SCOPES},
    **{f"GATE_{word.upper()}": word for word in GATES},
    **{f"ACCESS_LEVEL_L{number}": str(number) for number in LEVELS},
    "to_state": "toState",
    "expected_version": "expectedVersion",
    "metadata_json": "metadata",
}
_WITH_TASK_ID = frozenset({"ext_call"})
_NAMES = re.compile(r"[A-Za-z0-9_]+")


def as_written(text: str, kind: str) -> str:
    """What governance or the broker says, with values and fields as requests of that type have them."""
    spellings = _SPELLINGS if kind in _WITH_TASK_ID else {**_SPELLINGS, "task_id": "taskId"}
    return _NAMES.sub(lambda found: spellings.get(found[0], found[0]), text)
