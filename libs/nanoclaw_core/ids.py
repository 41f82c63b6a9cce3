"""Identifiers: how they are made (passed in as functions) and which ones are accepted from outside."""

import os
import re
import time
from collections.abc import Callable

from nanoclaw_core.errors import invalid

NewId = Callable[[], str]
"""Answers a new unique identifier."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:>/-]{1,200}")
_GROUP = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


_GROUPS = "name a group of config/groups.toml: ListGroups shows them, and `nanoclaw dispatch groups`"


def new_ulid() -> str:
    """A ULID: 48 bits of milliseconds and 80 random ones, 26 characters of Crockford's base 32; sorts by time."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -10, -10)])


def check_name(field: str, value: str) -> str:
    """An id from outside: `[A-Za-z0-9._-]{1,128}` without a leading dot. Raises INVALID_FIELD."""
    if not value:
        raise invalid(field, "is required", f"send {field}")
    if not _NAME.fullmatch(value):
        raise invalid(field, "must match [A-Za-z0-9._-]{1,128} and not begin with a dot", f"choose another {field}")
    return value


def check_request_id(value: str) -> str:
    """A request_id from outside: `[A-Za-z0-9._:>/-]{1,200}`. Raises INVALID_FIELD."""
    if not _REQUEST_ID.fullmatch(value):
        raise invalid(
            "request_id", "must be 1 to 200 of A-Za-z0-9 . _ : > / -", "send a new unique request_id, such as a UUID"
        )
    return value


def check_group(field: str, value: str) -> str:
    """A group's name: `[a-z0-9][a-z0-9_-]{0,63}`. Raises INVALID_FIELD."""
    if not _GROUP.fullmatch(value):
        raise invalid(field, "must match [a-z0-9][a-z0-9_-]{0,63}" if value else "is required", _GROUPS)
    return value
