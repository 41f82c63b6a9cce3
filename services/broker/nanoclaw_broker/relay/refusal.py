"""A no in the messages API's own words, so that SDKs understand it: the call's answer as status, headers and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_core.clock import from_text
from nanoclaw_core.errors import Kind, NanoclawError

_LATER = 429
_STATUS_OF_TYPE = {
    "invalid_request_error": 400, "permission_error": 403, "not_found_error": 404, "request_too_large": 413,
    "rate_limit_error": _LATER, "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip
_TYPE_OF_CODE = {
    "BUSY": "rate_limit_error",
    "RATE_LIMITED": "rate_limit_error",
    "QUOTA_EXHAUSTED": "rate_limit_error",
    "BUDGET_EXCEEDED": "rate_limit_error",
    "BUDGET_FROZEN": "rate_limit_error",
    "CIRCUIT_OPEN": "overloaded_error",
    "INVALID_PARAMS": "invalid_request_error",
    "INVALID_FIELD": "invalid_request_error",
    "REQUEST_TOO_LARGE": "request_too_large",
    "NOT_FOUND": "not_found_error",
    "LLM_REQUEST_INVALID": "invalid_request_error",
    "LLM_REQUEST_TOO_LARGE": "request_too_large",
    "LLM_NOT_FOUND": "not_found_error",
    "LLM_NOT_PERMITTED": "permission_error",
    "LLM_RATE_LIMITED": "rate_limit_error",
    "LLM_OVERLOADED": "overloaded_error",
    "LLM_TIMED_OUT": "timeout_error",
}
_PASSING = frozenset({"BUSY", "RATE_LIMITED", "CIRCUIT_OPEN", "LLM_RATE_LIMITED", "LLM_OVERLOADED", "LLM_UNREACHABLE"})
"""The same request may pass a moment later: an SDK may try again by itself."""
_OF_STATUS = {pb.CALL_STATUS_DENIED: "permission_error", pb.CALL_STATUS_TIMEOUT: "timeout_error"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is answered. kind: the messages API's type. retry_after: in how many seconds, if that is known."""

    code: str
    message: str
    next_steps: tuple[str, ...] = ()
    facts: Mapping[str, str] | None = None
    call_id: str = ""
    kind: str = "permission_error"
    retry_after: int | None = None

    @property
    def status(self) -> int:
        """Of HTTP."""
        return _STATUS_OF_TYPE[self.kind]

    @property
    def headers(self) -> dict[str, str]:
        """Of HTTP."""
        headers = {"x-should-retry": str(self.code in _PASSING).lower()}
        if self.call_id:
            headers["request-id"] = self.call_id
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers

    @property
    def body(self) -> dict[str, Any]:
        """The messages API's error; code, facts and next steps are ours."""
        steps = "; ".join(self.next_steps)
        message = f"{self.code}: {self.message}" + (f"; next: {steps}" if steps else "")
        error = {"type": self.kind, "message": message, "code": self.code, "next_steps": list(self.next_steps)}
        return {
            "type": "error",
            "error": {**error, "facts": dict(self.facts or {})},
            "request_id": self.call_id or None,
        }

    @property
    def event(self) -> bytes:
        """The same within a stream."""
        return as_event(self.body)


def of_response(response: pb.CallResponse, now: datetime) -> Refusal:
    """A call that was not executed."""
    kind = _TYPE_OF_CODE.get(response.code) or _OF_STATUS.get(response.status, "api_error")
    facts = dict(response.facts)
    return Refusal(
        code=response.code,
        message=response.message,
        next_steps=tuple(response.next_steps),
        facts=facts,
        call_id=response.call_id,
        kind=kind,
        retry_after=_seconds(facts, response.code, now),
    )


def of_error(error: NanoclawError) -> Refusal:
    """What the broker itself can't do, or can't read."""
    steps = (error.next_step,) if error.next_step else ()
    if error.kind is Kind.INVALID:
        return Refusal("INVALID_FIELD", error.message, steps, kind="invalid_request_error")
    kind = "overloaded_error" if error.kind is Kind.UNAVAILABLE else "api_error"
    return Refusal(error.reason, error.message, steps, kind=kind)


def not_here(path: str) -> Refusal:
    """A path that the relay does not serve."""
    step = "ask POST /v1/messages, POST /v1/messages/count_tokens or GET /v1/models"
    return Refusal("NOT_FOUND", f"the relay has no {path[:200]}", (step,), kind="not_found_error")


def too_large(most: int) -> Refusal:
    """A request beyond the limit; it was not read to its end."""
    message = f"the request is larger than {most} bytes"
    return Refusal("REQUEST_TOO_LARGE", message, ("send less",), kind="request_too_large")


def as_event(value: Mapping[str, Any]) -> bytes:
    """One event of a stream."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"event: {value['type']}\ndata: {text}\n\n".encode(errors="replace")


def _seconds(facts: Mapping[str, str], code: str, now: datetime) -> int | None:
    if until := facts.get("retry_at"):
        return max(1, int((from_text(until) - now).total_seconds()) + 1)
    if after := facts.get("retry_after_seconds"):
        return max(1, int(float(after)))
    return 1 if code in _PASSING else None
