"""The answer to a request: data, also when it is no."""

from collections.abc import Mapping
from typing import Any, NamedTuple

EXECUTED = "executed"
DENIED = "denied"
FAILED = "failed"
TIMEOUT = "timeout"

PASSING = frozenset(
    {
        *("BUSY", "RATE_LIMITED", "NEVER_SENT"),
        *("UNAVAILABLE", "GOVERNANCE_UNAVAILABLE", "CREDENTIALS_UNREADABLE", "STOPPING", "CANCELLED"),
        *("STORE_BUSY", "STORE_CLOSED", "STORE_FAILED", "STORE_FULL"),
        *("DEADLINE_EXCEEDED", "NO_ANSWER", "MAILBOX_UNAVAILABLE", "BAD_RESPONSE", "INTERNAL"),
    }
)
"""Codes that say nothing against the request itself: the same one may pass later."""


class Response(NamedTuple):
    """What the host answered, or why there is no answer.

    status: executed, denied, failed or timeout. code: stable, UPPER_SNAKE. data: what was asked for. error: the
    message where it was not executed. facts: what the decision rested on. next_steps: what would make it pass.
    request_id: of the request that it answers.
    """

    status: str
    code: str = ""
    data: Any = None
    error: str = ""
    summary: str = ""
    facts: Mapping[str, Any] = {}
    next_steps: tuple[str, ...] = ()
    request_id: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.status == EXECUTED

    @property
    def may_pass(self) -> bool:
        """Whether the same request may pass later, without anybody's doing."""
        return self.code in PASSING

    @property
    def why(self) -> str:
        """One line for a person: code, message, next step."""
        step = f"; next step: {self.next_steps[0]}" if self.next_steps else ""
        return f"{self.code or self.status}: {self.error or self.summary or 'no reason given'}{step}"

    @classmethod
    def read(cls, value: Any, request_id: str) -> "Response":
        """From the JSON of a response file; what is no answer at all is FAILED with BAD_RESPONSE."""
        if not isinstance(value, dict) or not isinstance(value.get("status"), str):
            return cls(FAILED, "BAD_RESPONSE", error="the response file holds no answer", request_id=request_id)
        facts, steps = value.get("facts"), value.get("next_steps")
        return cls(
            status=value["status"],
            code=str(value.get("code") or ""),
            data=value.get("data"),
            error=str(value.get("error") or ""),
            summary=str(value.get("summary") or ""),
            facts=facts if isinstance(facts, dict) else {},
            next_steps=tuple(map(str, steps)) if isinstance(steps, list) else (),
            request_id=request_id,
        )
