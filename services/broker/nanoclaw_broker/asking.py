"""A CallRequest, read: check 1, its form; what the providers say of it; and the ids under which it is kept."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import params
from nanoclaw_broker.answers import one_line
from nanoclaw_broker.calls import Entry
from nanoclaw_broker.deeds import BROKER
from nanoclaw_broker.facts import Ask, Signature, Skill
from nanoclaw_broker.kept_params import Seal
from nanoclaw_broker.ledger import KEEPING, Kind
from nanoclaw_broker.policy import Lane, Level
from nanoclaw_broker.providers import Action, Params
from nanoclaw_broker.registry import Registry
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.errors import NanoclawError, denied, invalid
from nanoclaw_core.ids import NewId, check_name, check_request_id, new_ulid
from nanoclaw_core.principal import Caller

_SIGNATURES = {
    pb.Attestation.SIGNATURE_VALID: Signature.VALID,
    pb.Attestation.SIGNATURE_WRONG: Signature.WRONG,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A well-formed request. raw: its parameters. action and params: None where they are not known or do not fit."""

    ask: Ask
    raw: dict[str, Any]
    skill: Skill
    action: Action[Any] | None
    params: Params | None


def read(
    request: pb.CallRequest | pb.ExplainCallRequest, caller: Caller, group: str, registry: Registry, key: bytes
) -> Asked:
    """Raises INVALID_FIELD for what is malformed, ATTESTATION_NOT_YOURS for a statement only the gateway makes."""
    check_name("provider", request.provider)
    check_name("action", request.action)
    if request.task_id:
        check_name("task_id", request.task_id)
    if request.idempotency_key:
        _check_key(request.idempotency_key)
    raw = params.parse(request.params_json)
    skill, action, fitting = registry.find(request.provider, request.action, raw)
    ask = Ask(
        group=group,
        request_id=check_request_id(request.request_id) if isinstance(request, pb.CallRequest) else "",
        provider=request.provider,
        action=request.action,
        params_hmac=params.keyed_hash(key, request.provider, request.action, raw),
        task_id=request.task_id,
        idempotency_key=request.idempotency_key,
        attempt=caller.attempt,
        signature=_signature(request, caller) if isinstance(request, pb.CallRequest) else Signature.VALID,
        lane=Lane.RELAY if caller.via == BROKER.principal else Lane.CALL,
    )
    return Asked(ask, raw, skill, action, fitting)


def _check_key(key: str) -> None:
    try:
        check_request_id(key)
    except NanoclawError:
        raise invalid("idempotency_key", "must be 1 to 200 of A-Za-z0-9 . _ : > / -", "choose another key") from None


def _signature(request: pb.CallRequest, caller: Caller) -> Signature:
    """What the gateway says. Where it says nothing the file was not checked, so it counts as unsigned."""
    if caller.via == "service:gateway":
        return _SIGNATURES.get(request.attestation.signature, Signature.MISSING)
    if caller.via == BROKER.principal:  # our own word: the relay's socket is the identity
        return Signature.VALID
    if request.HasField("attestation"):
        raise denied("ATTESTATION_NOT_YOURS", "only the gateway attests files", "leave attestation out")
    return Signature.VALID if caller.kind == "operator" else Signature.MISSING


def entry(asked: Asked, call_id: str, caller: Caller, trace_id: str, secrets: Secrets, seal: Seal) -> Entry:
    """How the ledger will show it."""
    summary, ends_by, kept = "", None, b""
    if asked.action is not None and asked.params is not None:
        summary = one_line(secrets.scrub(asked.action.summary(asked.params)))
        if asked.action.kind is Kind.MUTATING:
            ends_by = asked.action.unknown_end_of(asked.params)
        if ends_by in KEEPING or asked.skill.levels[asked.ask.action] is Level.L3:
            kept = seal.close(call_id, asked.raw)
    return Entry(
        call_id=call_id,
        kind=asked.action.kind if asked.action is not None else None,
        unknown_ends_by=ends_by,
        params_summary=summary,
        principal=caller.principal,
        via=caller.via,
        trace_id=trace_id,
        kept=kept,
    )


def rising_ids(new_id: NewId = new_ulid, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> NewId:
    """ULIDs that also rise within a millisecond and when the clock steps back, so that the ledger sorts by them."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    last = ""

    def rising() -> str:
        nonlocal last
        candidate = new_id()
        if candidate <= last:
            value = 0
            for character in last:
                value = value * 32 + alphabet.index(character)
            value += 1
            candidate = "".join(alphabet[value >> shift & 31] for shift in range(125, -5, -5))
        last = candidate
        return candidate

    return rising
