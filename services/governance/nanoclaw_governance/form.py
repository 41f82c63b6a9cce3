"""The form of requests: what texts must be like, and every field that is not so at once."""

import unicodedata
from collections.abc import Iterator

from nanoclaw_core.errors import Kind, NanoclawError, Violation

MAX_TITLE = 500
"""Characters."""
MAX_TEXT = 64 * 1024
"""Bytes of UTF-8 in any longer text of a request."""


_STEERING = frozenset({"Cc", "Zl", "Zp"})
"""Control characters, and Unicode's own ends of lines and paragraphs."""


def check_title(title: str) -> Iterator[Violation]:
    """1 to 500 characters, on one line."""
    if not title.strip() or len(title) > MAX_TITLE:
        step = "shorten the title: the description holds the rest" if title.strip() else "send a title"
        yield violation("title", f"must have 1 to {MAX_TITLE} characters", step)
    yield from check_line("title", title)


def check_line(field: str, text: str) -> Iterator[Violation]:
    """No line breaks and no other control characters: it stands in lists and in terminals."""
    if not text.isprintable() and any(unicodedata.category(char) in _STEERING for char in text):
        yield violation(field, "must be one line without control characters", f"leave them out of {field}")


def check_text(field: str, text: str, limit: int = MAX_TEXT) -> Iterator[Violation]:
    """At most so many bytes."""
    if len(text) > limit or len(text.encode()) > limit:
        yield violation(field, f"must have at most {limit} bytes", "keep the long version elsewhere and link to it")


def required(field: str, text: str, limit: int = MAX_TEXT) -> Iterator[Violation]:
    """Not blank, and at most so many bytes."""
    if not text.strip():
        yield violation(field, "is required", f"send {field}")
    yield from check_text(field, text, limit)


def raise_invalid(violations: list[Violation]) -> None:
    """Raises INVALID_FIELD with all of them, if there are any."""
    if violations:
        message = "; ".join(f"{violation.field}: {violation.message}" for violation in violations)
        raise NanoclawError(Kind.INVALID, "INVALID_FIELD", message, violations=violations)


def violation(field: str, message: str, next_step: str) -> Violation:
    """INVALID_FIELD about one field."""
    return Violation("INVALID_FIELD", message, next_step, field)
