"""The signature of a request file, checked over the text as it was written.

An agent signs its request as compact JSON without `sig`, then writes it indented with `sig` in it. Serialising the
parsed request again would change numbers and escapes, so the signed text is got back from the file's own: white space
outside strings and the outermost `sig` member are dropped, nothing else is touched.
"""

import enum
import hmac
import json
import re
from typing import NamedTuple

_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]++|\\.)*+")|[ \t\n\r]++', re.DOTALL)
_scan = json.JSONDecoder().raw_decode


class Signature(enum.Enum):
    """What the signature of a file says."""

    VALID = "valid"
    MISSING = "missing"
    WRONG = "wrong"


class Member(NamedTuple):
    """Where an outermost member stands in a compact text: of its name, of its value, and its end."""

    start: int
    value: int
    end: int


def compact(raw: bytes) -> str:
    """The text without white space outside strings. `raw` must have passed strict_json.read_object."""
    return _STRING_OR_SPACE.sub(r"\1", raw.decode())


def members(text: str) -> dict[str, Member]:
    """The outermost members of a compact object, by their decoded names, in the order written."""
    found: dict[str, Member] = {}
    position = 1
    while text[position] != "}":
        start = position + (text[position] == ",")
        name, colon = _scan(text, start)
        _, position = _scan(text, colon + 1)
        found[name] = Member(start, colon + 1, position)
    return found


def signed_text(text: str) -> str:
    """A compact object's text without its `sig` member, and without the comma that it leaves."""
    member = members(text).get("sig")
    if member is None:
        return text
    before, after = text[: member.start], text[member.end :]
    if before.endswith(","):
        return before[:-1] + after
    return before + after.removeprefix(",")


def sign(text: str, secret: str) -> str:
    """Hex HMAC-SHA256 over a compact text, keyed with the secret's text."""
    return hmac.digest(secret.encode(), text.encode(), "sha256").hex()


def check(text: str, secret: str) -> Signature:
    """Whether a compact request is signed under the secret. Takes the same time wherever a wrong one differs."""
    member = members(text).get("sig")
    if member is None:
        return Signature.MISSING
    given = json.loads(text[member.value : member.end])
    if not isinstance(given, str):
        return Signature.WRONG
    expected = sign(signed_text(text), secret)
    return Signature.VALID if hmac.compare_digest(given.encode(), expected.encode()) else Signature.WRONG
