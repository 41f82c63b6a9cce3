"""Request files to the letter: names, times, indentation, signature, and how a file appears all at once.

The format is that of agents that exist already; two-space JSON, UTF-8 as is, members in the order they were put in.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

MAX_BYTES = 1024 * 1024
"""What the gateway reads of one file; it removes a larger one unread."""

NowNs = Callable[[], int]
"""Answers nanoseconds since 1970, UTC."""

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def timestamp(now_ns: int, digits: int = 3) -> str:
    """The moment as `2026-11-21T03:24:35.296Z`; `digits` of the second, 3 to 9."""
    seconds, fraction = divmod(now_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}"[: 20 + digits] + "Z"


def new_id(now_ns: int, prefix: str = "") -> str:
    """`{prefix}{milliseconds}-{six random characters}`: sorts by time, safe as a file's name."""
    value = int.from_bytes(os.urandom(8), "big")
    random = ""
    for _ in range(6):
        value, digit = divmod(value, 36)
        random += _BASE36[digit]
    return f"{prefix}{now_ns // 1_000_000}-{random}"


def encode(request: Mapping[str, Any]) -> bytes:
    """The file's content. Raises ValueError for NaN, a lone surrogate or what JSON has no form for."""
    return _dump(request, indent=2)


def sign(request: Mapping[str, Any], secret: str) -> str:
    """Hex HMAC-SHA256, keyed with the secret's text, over the request without `sig` as compact JSON."""
    import hmac  # only signed requests pay for loading OpenSSL

    body = {name: value for name, value in request.items() if name != "sig"}
    return hmac.new(secret.encode(), _dump(body, separators=(",", ":")), "sha256").hexdigest()


def _dump(value: Any, **form: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **form).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no JSON for it: {error}") from None


def put(directory: str, name: str, content: bytes) -> None:
    """Makes `{name}` appear in the directory at once, with its whole content. Raises OSError.

    Not flushed to the disk: after a power loss the container is gone too, and its successor asks again.
    """
    path = os.path.join(directory, name)
    temporary = f"{path}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def get(path: str) -> Any:
    """The JSON value of a file that the host wrote, or None while there is none. Raises ValueError for bad JSON."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("it nests too deep") from None
