"""The words that people type and read, and the enums of the contracts: one table for each, both ways."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw.runtime.v1 import runtime_pb2 as runtime

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Words:
    """One enum. `parse` reads a word in any case; `word` writes one, empty for the unspecified value.

    spellings: the words by the contract's names, which `parse` takes as well.
    """

    def __init__(self, enum: Any, prefix: str, spelling: Callable[[str], str] = str) -> None:
        self.spellings = {name: spelling(name.removeprefix(prefix)) for name, value in enum.items() if value}
        self._by_word = {word: int(enum.Value(name)) for name, word in self.spellings.items()}
        self._by_value = {value: word for word, value in self._by_word.items()}

    def parse(self, text: Any) -> int:
        """The value of a word. Raises BadParameter that lists them."""
        if isinstance(text, int):  # a default
            return text
        for name, word in self.spellings.items():
            if str(text).lower() in (word.lower(), name.lower()):
                return self._by_word[word]
        raise typer.BadParameter(f"{text!r} is none of {', '.join(self._by_word)}")

    def word(self, value: int) -> str:
        """The word of a value."""
        return self._by_value.get(value, "")

    def option(self, *names: str, default: str = "", help: str = "") -> Any:
        """An option that takes one of the words; default: the word to show for it."""
        return typer.Option(
            *names, parser=self.parse, metavar="|".join(self._by_word), show_default=default or False, help=help
        )

    def argument(self) -> Any:
        """An argument that takes one of the words."""
        return typer.Argument(parser=self.parse, metavar="|".join(self._by_word))


def _gate(name: str) -> str:
    return {"REVOPS": "RevOps"}.get(name, name.capitalize())


STATES = Words(governance.TaskState, "TASK_STATE_")
TYPES = Words(governance.TaskType, "TASK_TYPE_")
PRIORITIES = Words(governance.Priority, "PRIORITY_")
GATES = Words(governance.Gate, "GATE_", _gate)
SCOPES = Words(governance.Scope, "SCOPE_")
RISKS = Words(governance.Risk, "RISK_", str.lower)
PRODUCT_STATUSES = Words(governance.ProductStatus, "PRODUCT_STATUS_", str.lower)
LEVELS = Words(broker.AccessLevel, "ACCESS_LEVEL_")
PERIODS = Words(runtime.BudgetPeriod, "BUDGET_PERIOD_", str.lower)
CALL_STATUSES = Words(broker.CallStatus, "CALL_STATUS_", str.lower)
CALL_STATES = Words(broker.CallState, "CALL_STATE_")
SETTLE_OUTCOMES = Words(broker.SettleOutcome, "SETTLE_OUTCOME_", lambda name: name.lower().replace("_", "-"))
DISPATCH_STATES = Words(dispatcher.DispatchState, "DISPATCH_STATE_")
ATTEMPT_STATES = Words(dispatcher.AttemptState, "ATTEMPT_STATE_")

_TABLES = [table for table in list(globals().values()) if isinstance(table, Words)]
_SPELLINGS = {name: word for table in _TABLES for name, word in table.spellings.items()}
_NAME = re.compile(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b")


def as_typed(text: str) -> str:
    """What a service says, with values as the command takes them: `Security` for GATE_SECURITY."""
    return _NAME.sub(lambda found: _SPELLINGS.get(found[0], found[0]), text)


def moment(text: Any) -> Timestamp:
    """`30m`, `12h`, `7d` from now, or an ISO date or time (UTC unless it says otherwise). Raises BadParameter."""
    if isinstance(text, Timestamp):
        return text
    found = Timestamp()
    try:
        if match := re.fullmatch(r"(\d+)([mhd])", str(text)):
            parsed = datetime.now(UTC) + timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            parsed = datetime.fromisoformat(str(text))
        found.FromDatetime(parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC))
    except (ValueError, OverflowError):  # beyond the years that there are
        raise typer.BadParameter(f"{text!r} is no time: say 30m, 12h, 7d or 2026-12-31T12:00") from None
    return found


def when(message: Any, field: str) -> str:
    """A timestamp field in local time, to the second; empty where it is unset."""
    if not message.HasField(field):
        return ""
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
