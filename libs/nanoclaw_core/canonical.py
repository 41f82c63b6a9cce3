"""Canonical JSON in the style of RFC 8785: one text for one value, so that it can be hashed."""

import json
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def canonical(value: Any) -> str:
    """Sorted members, no white space, UTF-8 as is.

    Equals RFC 8785 for what log rows hold: objects with member names of the basic plane, strings, integers below 2**53,
    booleans and null. Floats are written as Python does and so belong in a text, never in a row.
    Raises ValueError for NaN.
    """
    return _encode(value)
