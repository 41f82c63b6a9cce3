"""The one error type of the system: what went wrong, under a stable name, with the facts and the next step."""

import enum
import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Kind(enum.Enum):
    """What sort of failure it is; nanoclaw_rpc maps each to a gRPC status and back."""

    INVALID = "invalid"
    """The request is malformed, whatever the state of the system."""
    UNAUTHENTICATED = "unauthenticated"
    """No valid credential."""
    DENIED = "denied"
    """The caller may not do this."""
    NOT_FOUND = "not_found"
    """No such thing, or none that the caller may see."""
    CONFLICT = "conflict"
    """Somebody else was first: read again and decide anew (ABORTED on the wire)."""
    PRECONDITION = "precondition"
    """The system is not in a state that allows it; violations say what is missing."""
    EXHAUSTED = "exhausted"
    """A limit, quota or budget is used up."""
    UNAVAILABLE = "unavailable"
    """Not now; the same request may pass later."""
    DEADLINE = "deadline"
    """Time ran out; whether it happened is not known to the caller."""
    UNIMPLEMENTED = "unimplemented"
    """No such RPC, or none here."""
    INTERNAL = "internal"
    """A defect of ours; the caller gets an opaque id, never the text."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that a request breaks: a stable code, a message, and what would make it pass.

    `field` names the request's field where the violation is about its form (Kind.INVALID).
    """

    code: str
    message: str
    next_step: str = ""
    field: str = ""


class NanoclawError(Exception):
    """An error that keeps its identity across the wire.

    kind: the sort of failure. reason: stable UPPER_SNAKE. message: lower case, names the thing, no full stop.
    facts: what it rested on, as text. violations: every rule broken, at once. next_step: what to do about it; left out,
    it is the first that a violation has.
    """

    def __init__(
        self,
        kind: Kind,
        reason: str,
        message: str,
        *,
        violations: Iterable[Violation] = (),
        next_step: str = "",
        **facts: Any,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.next_step = next_step or next((one.next_step for one in self.violations if one.next_step), "")
        self.facts: Mapping[str, str] = {name: str(value) for name, value in facts.items()}

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def __repr__(self) -> str:
        return f"NanoclawError({self.kind.name}, {self.reason!r}, {self.message!r}, facts={dict(self.facts)!r})"


def invalid(field: str, message: str, next_step: str) -> NanoclawError:
    """A malformed field: INVALID_FIELD with one violation that names it."""
    violation = Violation("INVALID_FIELD", message, next_step, field)
    return NanoclawError(Kind.INVALID, "INVALID_FIELD", f"{field}: {message}", violations=[violation])


def unauthenticated(reason: str, message: str, next_step: str) -> NanoclawError:
    """A refusal of who cannot say who they are."""
    return NanoclawError(Kind.UNAUTHENTICATED, reason, message, next_step=next_step)


def denied(reason: str, message: str, next_step: str, **facts: Any) -> NanoclawError:
    """A refusal of the caller."""
    return NanoclawError(Kind.DENIED, reason, message, next_step=next_step, **facts)


def not_found(noun: str, name: str, field: str, next_step: str) -> NanoclawError:
    """An absent thing: `{NOUN}_NOT_FOUND`. field: of the request, the one that names it; empty, it is INVALID_FIELD."""
    if not name:
        return invalid(field, "is required", next_step)
    reason, message = f"{noun.upper().replace(' ', '_')}_NOT_FOUND", f"{field}: there is no {noun} {name!r}"
    return NanoclawError(Kind.NOT_FOUND, reason, message, next_step=next_step, field=field, name=name)


def file_failed(error: OSError) -> NanoclawError:
    """A file that can't be read or written: FILE_FAILED, with its name and what the system says."""
    where = f"{error.filename}: " if error.filename else ""
    message = f"{where}{(error.strerror or str(error)).lower()}"
    step = _FILE_STEPS.get(error.errno or 0, "see that the folder is there, and that this user may write there")
    return NanoclawError(Kind.UNAVAILABLE, "FILE_FAILED", message, next_step=step)


_FULL = "free some space on the disk of NANOCLAW_HOME, then try again"
_CLOSED = "let this user write there, or set NANOCLAW_HOME to a folder where it may"
_FILE_STEPS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _CLOSED),
}
