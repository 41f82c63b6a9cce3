"""Pages of lists: how many to answer, and the opaque token that says where to go on."""

import base64
import binascii
import json
from typing import Any, Protocol

from nanoclaw_core.errors import Kind, NanoclawError, invalid

DEFAULT = 50
MOST = 500


class Paged(Protocol):
    """A request of a List RPC."""

    page_size: int
    page_token: str


def size(request: Paged) -> int:
    """How many to answer: 50 unless told, at most 500. Raises INVALID_FIELD for a negative number."""
    wanted = request.page_size
    if wanted < 0:
        raise invalid("page_size", "must not be negative", "leave it out, or ask for 1 to 500")
    return min(wanted, MOST) or DEFAULT


def encode(*parts: str | int) -> str:
    """The token of the page that begins after the row with these keys."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(token: str) -> tuple[Any, ...]:
    """The keys of a token, strings and integers; () for none. Raises PAGE_TOKEN_INVALID."""
    if not token:
        return ()
    try:
        parts = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        parts = None
    if not isinstance(parts, list) or not parts or not all(type(part) in (str, int) for part in parts):
        raise token_invalid("is none of ours")
    return tuple(parts)


def token_invalid(problem: str) -> NanoclawError:
    """PAGE_TOKEN_INVALID, for a token that is not the one of the page before."""
    return NanoclawError(
        Kind.INVALID,
        "PAGE_TOKEN_INVALID",
        f"page_token {problem}",
        next_step="send the next_page_token of the page before, or none to begin anew",
    )
