"""Actions as lists show them: to everybody, and with what a group may do."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.answers import level_to_proto, unknown_end_to_proto
from nanoclaw_broker.capability import ActionStatus, Capability, level_under, status_of
from nanoclaw_broker.freeze import Freeze, binding
from nanoclaw_broker.ledger import Kind
from nanoclaw_broker.providers import Action
from nanoclaw_rpc import page

MOST_BYTES = page.MOST_BYTES - 64 * 1024
"""Of the actions of one provider with all they say: a row of a list must fit on a page."""
UNTOLD = '{"type":"object"}'
"""The schema shown where there is no room for the action's own."""

_Shown = TypeVar("_Shown", pb.Action, pb.ActionStatus)


def statuses(held: Capability, actions: Iterable[Action[Any]], freezes: Sequence[Freeze]) -> list[pb.ActionStatus]:
    """Each with what it is to the group that holds the grant."""
    return _fitting([_status(held, action, freezes) for action in actions])


def described(actions: Iterable[Action[Any]]) -> list[pb.Action]:
    """What they are, whoever asks."""
    return _fitting([_described(action) for action in actions])


def _status(held: Capability, action: Action[Any], freezes: Sequence[Freeze]) -> pb.ActionStatus:
    least = level_under(held, action.least_level, action.unverified_level)
    frozen = binding(freezes, action.least_level) is not None
    status = ActionStatus.DENIED if frozen else status_of(held, action.name, least)
    return pb.ActionStatus(
        name=action.name,
        level=level_to_proto(level_under(held, action.level, action.unverified_level)),
        least_level=level_to_proto(least),
        kind=pb.ActionKind.Value(f"ACTION_KIND_{action.kind.name}"),
        description=action.description,
        status=status.value,
        params_schema_json=action.params_schema,
    )


def _described(action: Action[Any]) -> pb.Action:
    return pb.Action(
        name=action.name,
        level=level_to_proto(action.level),
        description=action.description,
        mutating=action.kind is Kind.MUTATING,
        params_schema_json=action.params_schema,
        timeout_ms=int(action.timeout_seconds * 1000),
        unknown_ends_by=unknown_end_to_proto(action.unknown_ends_by.value if action.kind is Kind.MUTATING else ""),
        unverified_level=(
            level_to_proto(action.unverified_level)
            if action.unverified_level is not None
            else pb.ACCESS_LEVEL_UNSPECIFIED
        ),
        failure_modes=[
            pb.FailureMode(code=mode.code, category=mode.category, probability=mode.probability)
            for mode in action.failure_modes
        ],
    )


def _fitting(shown: list[_Shown]) -> list[_Shown]:
    """The last ones say less of themselves where all of it would be too much; they are called and checked as before."""
    left = MOST_BYTES
    for action in shown:
        left -= action.ByteSize()
        if left < 0:
            action.params_schema_json, action.description = UNTOLD, ""
    return shown
