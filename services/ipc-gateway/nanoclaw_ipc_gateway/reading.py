"""A file's bytes become a request, or a refusal that says whether the file is worth keeping; pure."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway import signature
from nanoclaw_ipc_gateway.claims import Claim
from nanoclaw_ipc_gateway.request import MESSAGES, TASKS, Parsed, Request, named, parse
from nanoclaw_ipc_gateway.signature import Signature
from nanoclaw_ipc_gateway.strict_json import malformed, read_object

TYPES: dict[str, dict[str, type[Request]]] = {"tasks": TASKS, "messages": MESSAGES, "submit": TASKS | MESSAGES}


@dataclass(frozen=True, slots=True)
class Letter:
    """What a file says.

    name: what it is answered under, empty where that is impossible. parsed: the request, or None and `error` says why
    not; quarantine: the file is no request at all. params: of an ext_call, as the agent wrote them.
    """

    name: str
    digest: str
    size_bytes: int
    type: str = ""
    request_id: str = ""
    parsed: Parsed | None = None
    error: NanoclawError | None = None
    quarantine: bool = False
    signature: Signature = Signature.MISSING
    params: str = ""
    traceparent: Any = None
    span: Any = None


def read_letter(raw: bytes, claim: Claim, secret: str) -> Letter:
    """Reads the content. Raises nothing."""
    name, size, digest = claim.base, len(raw), sha256(raw).hexdigest()
    try:
        value = read_object(raw)
    except NanoclawError as refusal:
        return Letter(name, digest, size, error=refusal, quarantine=True)
    request_id = named(value)
    name = request_id or name
    kind = value.get("type")
    kind = kind if isinstance(kind, str) and kind in TYPES["submit"] else ""
    if not name:
        error = malformed(
            "BAD_FILE_NAME", "the file's name is not fit to be answered under, and it names no request_id"
        )
        return Letter("", digest, size, kind, error=error, quarantine=True)
    try:
        parsed = parse(value, TYPES[claim.source])
    except NanoclawError as refusal:
        unknown = refusal.reason == "UNKNOWN_TYPE"
        return Letter(name, digest, size, kind, request_id, error=refusal, quarantine=unknown)
    verdict, params = Signature.MISSING, ""
    if parsed.type == "ext_call":
        text = signature.compact(raw)
        verdict = signature.check(text, secret)
        member = signature.members(text)["params"]
        params = text[member.value : member.end]
    return Letter(
        name, digest, size, parsed.type, request_id, parsed, signature=verdict, params=params,
        traceparent=parsed.body.traceparent, span=parsed.body.span,
    )  # fmt: skip


def unread(claim: Claim, error: NanoclawError, size_bytes: int) -> Letter:
    """What is left to say of a file that was not read."""
    return Letter(claim.base, "", size_bytes, error=error, quarantine=True)
