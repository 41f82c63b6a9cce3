"""Parameters as they arrive: strict JSON of bounded size, and a keyed hash that stands for them in the ledger."""

import hashlib
import hmac
import json
from typing import Any

from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import NanoclawError, invalid

MOST_BYTES = 1024 * 1024
DEEPEST = 64


def parse(text: str) -> dict[str, Any]:
    """The object in `params_json`; empty stands for no parameters.

    Raises INVALID_FIELD for what is not a JSON object, is larger than 1 MiB, nests deeper than 64, repeats a member,
    or holds NaN, an infinity or half a surrogate pair.
    """
    if text == "":
        return {}
    if len(text) > MOST_BYTES:
        raise _refused(f"larger than {MOST_BYTES} characters")
    try:
        value = _decode(text)
    except RecursionError:
        raise _refused(f"nests deeper than {DEEPEST}") from None
    except ValueError as error:
        raise _refused(str(error) if isinstance(error, _Refused) else "not JSON") from None
    if not isinstance(value, dict):
        raise _refused("not a JSON object")
    if text.count("{") + text.count("[") > DEEPEST and _deeper_than(value, DEEPEST):
        raise _refused(f"nests deeper than {DEEPEST}")
    return value


def keyed_hash(key: bytes, provider: str, action: str, params: dict[str, Any]) -> str:
    """HMAC-SHA256, hex, over what is to be done; equal for equal effects, telling nothing without the key.

    Raises INVALID_FIELD where the parameters hold half a surrogate pair, or a number too large.
    """
    try:
        text = canonical([provider, action, params]).encode()
    except UnicodeEncodeError:
        raise _refused("holds half a surrogate pair") from None
    except ValueError:
        raise _refused("holds a number beyond what a double can hold") from None
    return hmac.new(key, text, hashlib.sha256).hexdigest()  # not hmac.digest: it lets go of the GIL


def digest(provider: str, action: str, params: dict[str, Any]) -> str:
    """SHA-256, hex, over what is to be done: what a vote is for. Of parameters that `keyed_hash` takes."""
    whole = {"provider": provider, "action": action, "params": params}
    return hashlib.sha256(canonical(whole).encode()).hexdigest()


class _Refused(ValueError):
    """Why, in words that may be shown."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("repeats a member")
    return members


def _no_constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant).decode


def _deeper_than(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _refused(message: str) -> NanoclawError:
    return invalid("params_json", message, "send the parameters as one JSON object")
