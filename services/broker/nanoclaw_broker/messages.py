"""Rows and providers as protos, and protos as what the rules take."""

import sqlite3
from collections.abc import Collection, Sequence

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import shown_actions
from nanoclaw_broker.answers import level_to_proto, unknown_end_to_proto
from nanoclaw_broker.breaker import Circuit
from nanoclaw_broker.capabilities import as_capability
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.freeze import Freeze
from nanoclaw_broker.granting import LEVELS
from nanoclaw_broker.ledger import State
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import Provider
from nanoclaw_core.errors import invalid
from nanoclaw_rpc import times

_SAME = (
    "call_id", "request_id", "attempt_id", "provider", "action", "code", "reason", "params_hmac", "params_summary",
    "result_summary", "task_id", "product_id", "scope", "idempotency_key", "policy_version", "trace_id", "duration_ms",
    "cost_micros",
)  # fmt: skip


def call_record(row: sqlite3.Row, settlement: sqlite3.Row | None = None) -> pb.CallRecord:
    """A row of the ledger, with how it was cleared up if it was UNKNOWN."""
    return pb.CallRecord(
        group=row["group_name"],
        level=level_to_proto(Level(row["level"])),
        state=pb.CallState.Value(f"CALL_STATE_{row['state']}"),
        created_at=times.to_timestamp(row["created_at"]),
        updated_at=times.to_timestamp(row["updated_at"]),
        unknown_ends_by=unknown_end_to_proto(row["unknown_ends_by"]),
        settlement=_settlement(settlement) if settlement is not None else None,
        **{name: row[name] for name in _SAME},
    )


def _settlement(row: sqlite3.Row) -> pb.Settlement:
    return pb.Settlement(
        outcome=pb.SettleOutcome.Value(f"SETTLE_OUTCOME_{row['outcome']}"),
        principal=row["principal"],
        note=row["note"],
        settled_at=times.to_timestamp(row["settled_at"]),
    )


def breaker(circuit: Circuit, now: str) -> pb.Breaker:
    """A circuit breaker at a moment."""
    return pb.Breaker(
        provider=circuit.name,
        state=pb.Breaker.State.Value(f"STATE_{circuit.state(now).value}"),
        failures=len(circuit.failures),
        retry_at=times.to_timestamp(circuit.retry_at) if circuit.retry_at else None,
    )


def states(wanted: "list[pb.CallState.ValueType]") -> list[State]:
    """The states of a filter. Raises INVALID_FIELD."""
    try:
        return [State(pb.CallState.Name(one).removeprefix("CALL_STATE_")) for one in wanted]
    except ValueError:
        known = ", ".join(f"CALL_STATE_{state}" for state in State)
        raise invalid("states", "are not all states of a call", f"choose among {known}") from None


def state_to_proto(state: State) -> pb.CallState.ValueType:
    """A state on the wire."""
    return pb.CallState.Value(f"CALL_STATE_{state.value}")


def capability(row: sqlite3.Row, now: str) -> pb.Capability:
    """A grant; active where it is neither revoked nor over."""
    held = as_capability(row)
    return pb.Capability(
        id=held.id,
        group=held.group,
        provider=held.provider,
        access_level=level_to_proto(held.level),
        allowed_actions=held.allowed,
        denied_actions=held.denied,
        requires_task_gate=held.requires_task_gate,
        product_id=held.product_id,
        granted_by=row["granted_by"],
        granted_at=times.to_timestamp(row["granted_at"]),
        expires_at=times.to_timestamp(held.expires_at) if held.expires_at else None,
        active=bool(row["active"]) and not held.expired(now),
        allow_unverified=held.allow_unverified,
    )


def wanted_capability(request: pb.GrantRequest) -> Capability:
    """What a GrantRequest asks for. Raises INVALID_FIELD."""
    try:
        level = Level(request.access_level - 1)
    except ValueError:
        raise invalid("access_level", "is none of its values", LEVELS) from None
    gate = request.requires_task_gate
    return Capability(
        group=request.group,
        provider=request.provider,
        level=level,
        allowed=tuple(sorted(set(request.allowed_actions))),
        denied=tuple(sorted(set(request.denied_actions))),
        requires_task_gate="" if gate == "None" else gate,
        product_id=request.product_id,
        expires_at=times.from_timestamp(request.expires_at) if request.HasField("expires_at") else "",
        allow_unverified=request.allow_unverified,
    )


def group_capability(
    row: sqlite3.Row, now: str, provider: Provider | None, freezes: Sequence[Freeze]
) -> pb.GroupCapability:
    """A grant with each action's status for the group; of a provider that is gone there are none."""
    held = as_capability(row)
    actions = provider.actions if provider is not None else ()
    shown = shown_actions.statuses(held, actions, freezes)
    return pb.GroupCapability(capability=capability(row, now), actions=shown)


def call_freeze(row: sqlite3.Row) -> pb.CallFreeze:
    """A freeze that is, or was, in force."""
    return pb.CallFreeze(
        group=row["name"] if row["scope"] == "group" else "",
        provider=row["name"] if row["scope"] == "provider" else "",
        max_level=level_to_proto(Level(row["max_level"])),
        reason=row["reason"],
        principal=row["principal"],
        frozen_at=times.to_timestamp(row["frozen_at"]),
    )


def provider(one: Provider, missing: tuple[str, ...], held: Collection[str]) -> pb.Provider:
    """A provider with its actions. held: names of the secrets that are there."""
    needs = (
        (pb.SecretUse.NEED_WHOLLY, one.required_secrets),
        (pb.SecretUse.NEED_IN_PART, one.secrets_in_part),
        (pb.SecretUse.NEED_OPTIONAL, one.optional_secrets),
    )
    return pb.Provider(
        name=one.name,
        description=one.description,
        required_secrets=one.required_secrets,
        missing_secrets=missing,
        secrets=[pb.SecretUse(name=name, need=need, held=name in held) for need, names in needs for name in names],
        actions=shown_actions.described(one.actions),
    )
