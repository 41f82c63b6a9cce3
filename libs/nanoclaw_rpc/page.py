"""Pages of lists: how much to answer, and the opaque token that says where to go on."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from nanoclaw_core.errors import Kind, NanoclawError, invalid

DEFAULT = 50
MOST = 500
MOST_BYTES = 2 * 1024 * 1024
"""Of the messages on one page: every client can take it, grpcurl too, which takes 4 MiB unless told."""

M = TypeVar("M", bound=Message)
R = TypeVar("R")


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


def fitting(messages: Sequence[Message]) -> int:
    """How many of the messages, from the first on, one page holds: MOST_BYTES of them, but one where there is any."""
    left = MOST_BYTES
    for number, message in enumerate(messages):
        left -= message.ByteSize()
        if left < 0 and number:
            return number
    return len(messages)


def cut(
    found: Sequence[R], most: int, message: Callable[[R], M], key: Callable[[R], tuple[str | int, ...]]
) -> tuple[list[M], str]:
    """The messages of a page, at most `most` and as many as fit, and the token of the next, empty at the end.

    found: the rows, one more than `most` where there are more. key: what they are sorted by, of one of them.
    """
    messages = [message(row) for row in found[:most]]
    kept = fitting(messages)
    return messages[:kept], encode(*key(found[kept - 1])) if len(found) > kept else ""


def after(request: Paged, *beginning: str | int) -> tuple[Any, ...]:
    """Where the page begins: the keys of the token, or the beginning. Raises PAGE_TOKEN_INVALID for other keys."""
    parts = decode(request.page_token)
    if not parts:
        return beginning
    fits = len(parts) == len(beginning) and all(
        type(part) is type(first) and (isinstance(part, str) or 0 <= part < 1 << 63)
        for part, first in zip(parts, beginning, strict=True)
    )
    if not fits:
        raise token_invalid("is of another list")
    return parts


def encode(*parts: str | int) -> str:
    """The token of the page that begins after the row with these keys."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(token: str) -> tuple[Any, ...]:
    """The keys of a token, strings and integers; () for none. Raises PAGE_TOKEN_INVALID."""
    if not token:
        return ()
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
        parts = json.loads(text)
        json.dumps(parts, ensure_ascii=False).encode()  # half of a surrogate pair is no text of ours
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
