"""What the messages API answers with when it says no, as stable codes with a next step."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.base import ActionFailed, FailureMode

MOST_ERROR_BYTES = 64 * 1024
_MOST_MESSAGE = 1_000
_OPERATOR = "ask an operator to"


@dataclass(frozen=True, slots=True)
class _No:
    code: str
    next_step: str
    again: bool = False
    """Nothing was done, and the same request may pass a moment later."""
    in_trouble: bool = False
    """The provider serves nobody now."""


_LATER = "send it again later"
_BY_TYPE = {
    "invalid_request_error": _No("LLM_REQUEST_INVALID", "mend the request: the message says what is wrong"),
    "authentication_error": _No("LLM_KEY_REFUSED", f"{_OPERATOR} replace the broker's secret llm_api_key"),
    "billing_error": _No("LLM_BILLING", f"{_OPERATOR} look at the account at the provider"),
    "permission_error": _No("LLM_NOT_PERMITTED", f"{_OPERATOR} let the key use this model or feature"),
    "not_found_error": _No("LLM_NOT_FOUND", "name a model that the provider has"),
    "request_too_large": _No("LLM_REQUEST_TOO_LARGE", "send less"),
    "rate_limit_error": _No("LLM_RATE_LIMITED", _LATER, again=True),
    "timeout_error": _No("LLM_TIMED_OUT", "ask for less, or stream", in_trouble=True),
    "overloaded_error": _No("LLM_OVERLOADED", _LATER, again=True, in_trouble=True),
    "api_error": _No("LLM_FAILED", _LATER, in_trouble=True),
}
_BY_STATUS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip

MODES = (
    FailureMode("LLM_OVERLOADED", "TRANSIENT", 0.01),
    FailureMode("LLM_RATE_LIMITED", "RESOURCE", 0.02),
    FailureMode("LLM_FAILED", "TRANSIENT", 0.005),
    FailureMode("LLM_UNREACHABLE", "TRANSIENT", 0.002),
    FailureMode("LLM_REQUEST_INVALID", "VALIDATION", 0.01),
    FailureMode("LLM_KEY_REFUSED", "PERMISSION", 0.001),
)


class Refusal(ActionFailed):
    """The API said no. again: nothing was done, so it may be sent again, after `after` seconds if that is known."""

    def __init__(self, no: _No, message: str, after: float | None = None, **facts: str) -> None:
        super().__init__(no.code, message, next_steps=(no.next_step,), in_trouble=no.in_trouble, cost_micros=0, **facts)
        self.again = no.again
        self.after = after


def of_response(status: int, body: bytes, headers: Mapping[str, str]) -> Refusal:
    """What an answer other than 200 means. Its status counts where its body is not what it should be."""
    try:
        error = json.loads(body)["error"]
        kind, message = str(error["type"]), str(error["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        kind, message = "", f"the model's API answered {status} without saying why"
    no = _BY_TYPE.get(_BY_STATUS.get(status, kind)) or _BY_TYPE["api_error"]
    facts = {"http_status": str(status)}
    after = _seconds(headers.get("retry-after", ""))
    if after is not None:
        facts["retry_after_seconds"] = f"{after:g}"
    return Refusal(no, excerpt(message, _MOST_MESSAGE), after, **facts)


def of_event(event: Mapping[str, Any]) -> Refusal:
    """What an `error` event within a stream means."""
    error = event.get("error")
    error = error if isinstance(error, Mapping) else {}
    no = _BY_TYPE.get(str(error.get("type"))) or _BY_TYPE["api_error"]
    message = excerpt(str(error.get("message", "no reason given")), _MOST_MESSAGE)
    return Refusal(no, f"within its answer: {message}")


def unreachable(host: str, why: str) -> Refusal:
    """No connection could be made, so nothing was sent."""
    return Refusal(_No("LLM_UNREACHABLE", _LATER, again=True, in_trouble=True), f"{host} could not be reached: {why}")


def _seconds(text: str) -> float | None:
    """Of a Retry-After; one that is a date is left to the growing pauses."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 86_400 else None
