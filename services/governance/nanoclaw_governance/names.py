"""Enum names: TEXT inside (`DOING`), protobuf numbers (`TASK_STATE_DOING`) at the edge."""

from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import NanoclawError, invalid


class Names:
    """Both ways between an enum of the proto and its names. UNSPECIFIED is the empty text."""

    def __init__(self, enum: Any, prefix: str) -> None:
        values = {name.removeprefix(prefix): number for name, number in enum.items()}
        self._choices = ", ".join(name for name, number in enum.items() if number)
        self._names = {number: "" if name == "UNSPECIFIED" else name for name, number in values.items()}
        self.numbers: dict[str, Any] = {name: number for number, name in self._names.items()}

    def name(self, field: str, number: int) -> str:
        """The name; empty for UNSPECIFIED. Raises INVALID_FIELD for a number that this version does not know."""
        try:
            return self._names[number]
        except KeyError:
            raise self._unknown(field, number) from None

    def required(self, field: str, number: int) -> str:
        """The name. Raises INVALID_FIELD for UNSPECIFIED too."""
        name = self.name(field, number)
        if not name:
            raise self._unknown(field, number)
        return name

    def _unknown(self, field: str, number: int) -> NanoclawError:
        message = f"{number} is none of its values" if number else "is required"
        return invalid(field, message, f"choose one of {self._choices}")


STATES = Names(pb.TaskState, "TASK_STATE_")
TYPES = Names(pb.TaskType, "TASK_TYPE_")
PRIORITIES = Names(pb.Priority, "PRIORITY_")
GATES = Names(pb.Gate, "GATE_")
SCOPES = Names(pb.Scope, "SCOPE_")
RISKS = Names(pb.Risk, "RISK_")
PRODUCT_STATUSES = Names(pb.ProductStatus, "PRODUCT_STATUS_")
