"""The secrets that the broker alone can read: its own key, those of the providers, and keeping them out of answers."""

import base64
import html
import json
import os
import re
import secrets as random
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

from nanoclaw_broker.excerpt import CUT
from nanoclaw_core import secret_files
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.secret_files import SHORTEST

KEY_BYTES = 32
SCRUBBED = "[scrubbed]"
_ESCAPE = re.compile("%[0-9A-F]{2}")
_SHORTEST_BEGINNING = 4
"""Fewer characters tell nothing, and many a word ends in them."""
_LEFT_BY_BROWSERS = "!#$&'()*+,/:;=?@~"


class Secrets:
    """Files of a folder, one secret each, mode 0600; read at the start and at `reload`.

    also: further secrets that no answer may hold, such as our own token. Raises as secret_files.read does.
    """

    def __init__(self, folder: Path, also: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._kept_out = set(also)
        self.reload()

    @property
    def names(self) -> list[str]:
        """Of those that are held."""
        return list(self._values)

    def reload(self) -> None:
        """Reads the files anew; what can't be accepted leaves everything as it was."""
        files = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        values = {path.name: secret_files.read(path) for path in files if secret_files.is_name(path.name)}
        # Replaced ones are kept out as well: the reply to a call that left with one may be still to come.
        self._kept_out |= set(values.values())
        forms = {form for value in self._kept_out for form in encodings(value)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._values = values
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        self._beginnings = frozenset(form[:end] for form in forms for end in range(1, len(form)))
        self._longest = len(longest_first[0]) if forms else 0

    def has(self, name: str) -> bool:
        """Whether there is one of that name."""
        return name in self._values

    def get(self, name: str) -> SecretStr:
        """The secret. Raises UNAVAILABLE SECRET_MISSING."""
        if name not in self._values:
            raise NanoclawError(
                Kind.UNAVAILABLE, "SECRET_MISSING", f"the broker has no secret {name!r}", next_step="add its file"
            )
        return SecretStr(self._values[name])

    def scrub(self, text: str) -> str:
        """The text with every secret held replaced, as it is or in the usual encodings, and what a CUT left of one."""
        if self._pattern is None:
            return text
        text = self._pattern.sub(SCRUBBED, text)
        if CUT not in text:
            return text
        *cut_off, last = text.split(CUT)
        return CUT.join((*map(self._without_beginning, cut_off), last))

    def _without_beginning(self, text: str) -> str:
        end = self.open_end(text)
        return text[:-end] + SCRUBBED if end >= _SHORTEST_BEGINNING else text

    def open_end(self, text: str) -> int:
        """How many characters at the end of a text could be the beginning of a secret."""
        for end in range(min(len(text), self._longest - 1), 0, -1):
            if text[-end:] in self._beginnings:
                return end
        return 0

    def scrub_value(self, value: Any) -> Any:
        """A JSON value with every text in it scrubbed, names of members too."""
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, list | tuple):
            return [self.scrub_value(one) for one in value]
        if isinstance(value, dict):
            return {self.scrub_value(name): self.scrub_value(one) for name, one in value.items()}
        return value


def encodings(value: str) -> set[str]:
    """How a secret may look in a text: plain, URL-encoded, hexadecimal, in JSON, in HTML, in base64 at any offset."""
    raw = value.encode()
    forms = {value, raw.hex(), raw.hex().upper(), html.escape(value), html.escape(value, quote=False)}
    for quoted in (quote(value, safe=""), quote(value), quote(value, safe=_LEFT_BY_BROWSERS), quote_plus(value)):
        forms |= {quoted, _ESCAPE.sub(lambda match: match[0].lower(), quoted)}
    for encode in (_as_json, _as_ascii_json):
        once = encode(value)
        forms |= {once, once.replace("/", "\\/"), encode(once), encode(once.replace("/", "\\/"))}  # JSON in JSON, too
    for offset in range(3):
        for encode_base64 in (base64.b64encode, base64.urlsafe_b64encode):
            # Characters that also depend on what stands before or after the secret are left out.
            encoded = encode_base64(b"\0" * offset + raw).decode()
            forms.add(encoded[(offset * 8 + 5) // 6 : (offset + len(raw)) * 8 // 6])
    return {form for form in forms if len(form) >= SHORTEST}


def _as_json(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _as_ascii_json(value: str) -> str:
    return json.dumps(value)[1:-1]


def open_key(path: Path) -> bytes:
    """The broker's key; made at the first start, mode 0600. Raises BROKER_KEY_INVALID for one that is not ours."""
    if not path.exists():
        _make_key(path)
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES or path.stat().st_mode & 0o077:
        raise _refused(
            "BROKER_KEY_INVALID",
            f"{path} is not a key of {KEY_BYTES} bytes that its owner alone can read",
            "restore it from a backup with mode 0600; under a new one recorded parameters compare as different",
        )
    return key


def _make_key(path: Path) -> None:
    """Whole or not at all, and never over another one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(random.token_hex(KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def _refused(reason: str, message: str, next_step: str) -> NanoclawError:
    return NanoclawError(Kind.PRECONDITION, reason, message, next_step=next_step)
