"""What must not be shown: keeps credentials out of log lines and span attributes."""

import re
from functools import lru_cache
from typing import Any

SCRUBBED = "[scrubbed]"

_KEY = re.compile(r"authori[sz]ation|token|secret|passw(or)?d|passphrase|credential|api_?key|private_?key|cookie", re.I)
_HARMLESS = re.compile(r"(page|max|total|input|output|prompt)_tokens?|tokens", re.I)
_VALUE = re.compile(r"(?i:\bbearer\s+)[^\s\"'\\,;]+|\bnct_[A-Za-z0-9_-]{16,}")


@lru_cache(maxsize=1024)
def is_secret_key(key: str) -> bool:
    """Whether a member of that name may hold a secret."""
    return _KEY.search(key) is not None and _HARMLESS.fullmatch(key) is None


def scrub_members(value: Any) -> Any:
    """The value without what lies under names of secrets, at any depth."""
    if isinstance(value, dict):
        return {key: SCRUBBED if is_secret_key(str(key)) else scrub_members(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_members(inner) for inner in value]
    return value


def scrub_text(text: str) -> str:
    """The text without bearer tokens and tokens of ours."""
    if "nct_" in text or "earer" in text or "EARER" in text:
        return _VALUE.sub(SCRUBBED, text)
    return text
