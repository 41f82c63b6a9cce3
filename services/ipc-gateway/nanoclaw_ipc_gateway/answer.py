"""What a request is answered: the same few members for every type, whoever decided."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_ipc_gateway.words import as_written

EXECUTED = "executed"
DENIED = "denied"
FAILED = "failed"
TIMEOUT = "timeout"
OK = "OK"

STATUS_OF_KIND: dict[Kind, str] = {
    Kind.INVALID: FAILED,
    Kind.UNAUTHENTICATED: DENIED,
    Kind.DENIED: DENIED,
    Kind.NOT_FOUND: FAILED,
    Kind.CONFLICT: FAILED,
    Kind.PRECONDITION: DENIED,
    Kind.EXHAUSTED: DENIED,
    Kind.UNAVAILABLE: FAILED,
    Kind.DEADLINE: TIMEOUT,
    Kind.UNIMPLEMENTED: FAILED,
    Kind.INTERNAL: FAILED,
}
"""denied: the rules or the state of things say no. failed: the request is wrong, or it could not be worked on."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    status: executed, denied, failed or timeout. code: stable, UPPER_SNAKE. data: a JSON value. summary: one line.
    error: the message where it was not executed. facts: what the decision rested on. next_steps: what would help.
    """

    status: str
    code: str
    data: Any = None
    summary: str = ""
    error: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    next_steps: Sequence[str] = ()

    def text(self, request_id: str, now: str) -> str:
        """The content of a response file: a JSON object."""
        members: dict[str, Any] = {"request_id": request_id, "status": self.status}
        if self.data is not None:
            members["data"] = self.data
        if self.summary:
            members["summary"] = self.summary
        if self.error:
            members["error"] = self.error
        return _encode(
            {
                **members,
                "timestamp": now,
                "code": self.code,
                "facts": dict(self.facts),
                "next_steps": list(self.next_steps),
            }
        )


def executed(data: Any, summary: str) -> Answer:
    """It was done."""
    return Answer(EXECUTED, OK, data, summary)


def refused(error: NanoclawError, kind: str = "") -> Answer:
    """It was not done, for the reason that the error gives; each violation comes as a next step.

    kind: the request's type, where it was refused by governance or the broker, whose words are others than a file's.
    """

    def said(text: str) -> str:
        return as_written(text, kind) if kind else text

    steps = [error.next_step, *(violation.next_step or violation.message for violation in error.violations)]
    facts = dict(error.facts)
    if error.violations:
        facts["violations"] = ", ".join(dict.fromkeys(violation.code for violation in error.violations))
    return Answer(
        STATUS_OF_KIND[error.kind],
        error.reason,
        error=said(error.message),
        facts=facts,
        next_steps=tuple(dict.fromkeys(said(step) for step in steps if step)),
    )


def not_supported(kind: str) -> Answer:
    """The type is known, and nobody serves it."""
    return Answer(
        FAILED,
        "NOT_SUPPORTED",
        error=f"{kind} is not served here",
        facts={"type": kind},
        next_steps=("do without it, or leave a message for the operator",),
    )


def out_of_time(seconds: float, *, repeatable: bool) -> Answer:
    """Nobody answered us in time. repeatable: the request named itself, so asking again is harmless."""
    again = "ask again with the same request_id and the same content; nothing is done twice"
    look = "look into the snapshots whether it happened before you ask again"
    return Answer(
        TIMEOUT,
        "DEADLINE_EXCEEDED",
        error=f"no outcome within {seconds:g} seconds; whether it happened is not known",
        next_steps=(again if repeatable else look,),
    )
