"""Errors on the wire: NanoclawError to google.rpc.Status and back, without loss.

- `ErrorInfo(reason, domain="nanoclaw", metadata=facts)`, always.
- Violations, all at once: `BadRequest` for INVALID, else `PreconditionFailure` (type=code, subject=field).
- Next steps: `Help`, one link each; its url says whose step it is: `urn:nanoclaw:next:0` the first violation's, and so
  on, `urn:nanoclaw:next` the error's own, left out where it is the first of a violation.
- `RetryInfo` where the facts hold `retry_after_seconds`.
"""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details  # type: ignore[import-untyped]
from google.rpc import status_pb2

from nanoclaw_core.errors import Kind, NanoclawError, Violation

DOMAIN = "nanoclaw"
DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[Kind, grpc.StatusCode] = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.CONFLICT: grpc.StatusCode.ABORTED,
    Kind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
_KINDS: dict[int, Kind] = {code.value[0]: kind for kind, code in CODES.items()} | {
    grpc.StatusCode.ALREADY_EXISTS.value[0]: Kind.CONFLICT,
    grpc.StatusCode.OUT_OF_RANGE.value[0]: Kind.INVALID,
    grpc.StatusCode.CANCELLED.value[0]: Kind.UNAVAILABLE,
}
_NEXT = "urn:nanoclaw:next"

# Trailing metadata is bounded by every peer (8 KiB is the usual soft limit, base64 included), so a status must be too.
_STATUS_BYTES = 5000
_TEXT_CHARS = 600


def to_status(error: NanoclawError) -> status_pb2.Status:
    """The status of an error; what does not fit into trailing metadata is cut, the number of cut violations told."""
    for chars in (_TEXT_CHARS, 150, 40):
        kept = len(error.violations)
        while True:
            status = _status(error, kept, chars)
            if status.ByteSize() <= _STATUS_BYTES:
                return status
            if kept <= 1:
                break
            kept = kept * 2 // 3
    bare = NanoclawError(error.kind, error.reason, error.message, next_step=error.next_step)
    return _status(bare, 0, _TEXT_CHARS)


def _status(error: NanoclawError, kept: int, chars: int) -> status_pb2.Status:
    def short(text: str) -> str:
        text = text if text.isascii() else text.encode("utf-8", "replace").decode()  # protobuf refuses lone surrogates
        return text if len(text) <= chars else text[: chars - 1] + "…"

    violations = error.violations[:kept]
    facts = {name: short(value) for name, value in error.facts.items()}
    if kept < len(error.violations):
        facts["violations_cut"] = str(len(error.violations) - kept)
    parts: list[Message] = [details.ErrorInfo(reason=short(error.reason), domain=DOMAIN, metadata=facts)]
    if violations and error.kind is Kind.INVALID:
        parts.append(
            details.BadRequest(
                field_violations=[
                    details.BadRequest.FieldViolation(field=v.field, description=short(v.message), reason=v.code)
                    for v in violations
                ]
            )
        )
    elif violations:
        parts.append(
            details.PreconditionFailure(
                violations=[
                    details.PreconditionFailure.Violation(type=v.code, subject=v.field, description=short(v.message))
                    for v in violations
                ]
            )
        )
    steps = [(f"{_NEXT}:{i}", v.next_step) for i, v in enumerate(violations) if v.next_step]
    if error.next_step and (not steps or steps[0][1] != error.next_step):
        steps.insert(0, (_NEXT, error.next_step))
    if steps:
        links = [details.Help.Link(description=short(step), url=url) for url, step in steps]
        parts.append(details.Help(links=links))
    if (delay := _retry_after(error)) is not None:
        parts.append(details.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=CODES[error.kind].value[0], message=short(error.message), details=[_pack(part) for part in parts]
    )


def from_status(status: status_pb2.Status) -> NanoclawError:
    """The error of a status, equal to the one it was made from; a foreign status keeps what can be told of it."""
    reason, facts = "", dict[str, str]()
    violations: list[Violation] = []
    steps: dict[str, str] = {}
    for detail in status.details:
        kind = detail.type_url.rpartition(".")[2]
        if kind == "ErrorInfo":
            info = details.ErrorInfo.FromString(detail.value)
            reason, facts = info.reason, dict(info.metadata)
        elif kind == "BadRequest":
            bad = details.BadRequest.FromString(detail.value)
            violations += [Violation(v.reason, v.description, field=v.field) for v in bad.field_violations]
        elif kind == "PreconditionFailure":
            failed = details.PreconditionFailure.FromString(detail.value)
            violations += [Violation(v.type, v.description, field=v.subject) for v in failed.violations]
        elif kind == "Help":
            steps = {link.url: link.description for link in details.Help.FromString(detail.value).links}
    violations = [
        Violation(v.code, v.message, steps.get(f"{_NEXT}:{i}", ""), v.field) for i, v in enumerate(violations)
    ]
    error = NanoclawError(
        _KINDS.get(status.code, Kind.INTERNAL),
        reason or _code_name(status.code),
        status.message,
        violations=violations,
        next_step=steps.get(_NEXT, ""),
    )
    error.facts = facts
    return error


def from_rpc_error(error: grpc.aio.AioRpcError) -> NanoclawError:
    """The error that a failed call stands for."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    found = from_status(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))
    if found.kind is Kind.UNAVAILABLE and "failed to connect" in found.message:
        for sign, reason, next_step in _NO_CONNECTION:
            if sign in found.message:
                return NanoclawError(found.kind, reason, found.message, next_step=next_step)
    return found


_NO_CONNECTION = (
    (
        "Hostname Verification Check failed",
        "PEER_IS_ANOTHER",
        "the certificate there is another service's; check the address",
    ),
    (
        "handshake failed",
        "HANDSHAKE_FAILED",
        "the server must use TLS, with a certificate of an authority in your ca.crt; see `nanoclaw certs show`",
    ),
    (
        "Socket closed",
        "HANDSHAKE_REFUSED",
        "the server uses TLS and does not take clear text, or not your certificate; its log says why",
    ),
    ("Connection refused", "NOT_LISTENING", "see that the service runs, and that this is its address"),
    ("No such file or directory", "NOT_LISTENING", "see that the service runs, and that this is its address"),
    ("timed out", "NO_ANSWER", "see that the service runs and the machine is not overloaded, then try again"),
)
"""What grpc says of a connection that was not made: UNAVAILABLE still, for a rotation under way passes."""


def _retry_after(error: NanoclawError) -> Duration | None:
    try:
        seconds = float(error.facts["retry_after_seconds"])
    except (KeyError, ValueError):
        return None
    if not 0 <= seconds < 1e9:
        return None
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _pack(message: Message) -> Any:
    return Any(type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}", value=message.SerializeToString())


def _code_name(number: int) -> str:
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), "UNKNOWN")
