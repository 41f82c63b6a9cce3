"""A secret in a file of its own: what its name, its mode and its content must be."""

import re
from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError

SHORTEST = 8
"""Characters; a shorter one would be scrubbed out of words that have nothing to do with it."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_name(name: str) -> bool:
    """Whether a file of that name is read as a secret."""
    return _NAME.fullmatch(name) is not None


def read(path: Path) -> str:
    """The secret, without white space around it. The errors name the file and show nothing of what is in it.

    Raises SECRET_UNREADABLE, SECRET_EXPOSED, SECRET_TOO_SHORT.
    """
    try:
        mode, value = path.stat().st_mode, path.read_bytes().decode().strip()
    except UnicodeDecodeError:
        raise _refused("SECRET_UNREADABLE", f"{path} is not UTF-8 text", "replace it") from None
    except OSError as error:
        raise _refused("SECRET_UNREADABLE", f"{path} can't be read: {error.strerror}", "let us read it") from None
    if mode & 0o077:
        raise _refused("SECRET_EXPOSED", f"others than its owner can read {path}", "set its mode to 0600")
    if len(value) < SHORTEST:
        message = f"{path} has less than {SHORTEST} characters, too few to scrub"
        raise _refused("SECRET_TOO_SHORT", message, "replace it")
    return value


def _refused(reason: str, message: str, next_step: str) -> NanoclawError:
    return NanoclawError(Kind.PRECONDITION, reason, message, next_step=next_step)
