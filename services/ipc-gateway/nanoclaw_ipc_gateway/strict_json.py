"""JSON as a hostile agent may write it: read strictly, or refused with a code that says why."""

import json
import math
import re
from itertools import accumulate
from typing import Any

from nanoclaw_core.errors import Kind, NanoclawError

MAX_BYTES = 1024 * 1024
"""The longest request that is read."""

MAX_DEPTH = 64
"""How deep objects and arrays may nest; the outermost object is the first level."""

INCOMPLETE = frozenset({"BAD_JSON", "NOT_UTF8"})
"""Codes that a file which is still being written would get, too."""

# An unclosed string runs to the end: each character is looked at once, whatever the input (a pattern that insisted on
# the closing quote would start again at every quote).
_NO_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^\[\]{}"]++', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STEP = {"{": 1, "[": 1, "}": -1, "]": -1}


def malformed(code: str, message: str) -> NanoclawError:
    """What is no request at all."""
    return NanoclawError(Kind.INVALID, code, message, next_step="write one JSON object, all at once, and rename it in")


def read_object(raw: bytes) -> dict[str, Any]:
    """The one JSON object in `raw`.

    Raises NanoclawError TOO_LARGE, NOT_UTF8, BAD_JSON, TOO_DEEP, DUPLICATE_MEMBER, BAD_NUMBER (NaN, infinities, more
    than floats hold), UNPAIRED_SURROGATE or NOT_AN_OBJECT.
    """
    if len(raw) > MAX_BYTES:
        raise malformed("TOO_LARGE", f"{len(raw)} bytes are more than {MAX_BYTES}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise malformed("NOT_UTF8", f"byte {error.start} is not UTF-8") from None
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise malformed("TOO_DEEP", f"it nests deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise malformed("BAD_JSON", f"not JSON: {error.msg.lower()} at character {error.pos}") from None
    except ValueError:  # an integer of thousands of digits
        raise malformed("BAD_NUMBER", "a number has too many digits") from None
    if not isinstance(value, dict):
        raise malformed("NOT_AN_OBJECT", f"a JSON object is needed, not {_NOUNS.get(type(value), 'this')}")
    if _SURROGATE.search(text):
        _refuse_lone_surrogates(value)
    return value


def _depth(text: str) -> int:
    return max(accumulate(map(_STEP.__getitem__, _NO_BRACKET.sub("", text))), default=0)


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise malformed("UNPAIRED_SURROGATE", "a string holds half of a surrogate pair") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise malformed("DUPLICATE_MEMBER", f"the member {name[:100]!a} is there twice")
    return members


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise malformed("BAD_NUMBER", f"the number {text[:40]} is out of range")
    return value


def _constant(name: str) -> float:
    raise malformed("BAD_NUMBER", f"{name} is no JSON number")


_NOUNS: dict[type, str] = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_float=_float, parse_constant=_constant)
