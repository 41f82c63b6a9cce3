"""The end of what an agent wrote, made fit for a database, a terminal and a JSON log."""

import re

from nanoclaw_dispatcher.runtime import LAST_LINES_BYTES

# C0 and C1 controls but tab and line feed, DEL, separators that some tools take for line ends, marks of direction.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def tail_lines(output: bytes, *, cut: bool = False, limit: int = LAST_LINES_BYTES) -> str:
    """The last lines of `output`: decoded with replacement, control characters escaped, at most `limit` bytes of UTF-8.

    `cut` says that bytes stood before these. Where something is missing it begins at the start of a line, unless the
    last line alone is too long.
    """
    # An escape needs up to six bytes for one, so a window of `limit` bytes always suffices for `limit` bytes of text.
    window = output[-(limit + 4) :]
    cut = cut or len(window) < len(output)
    text = window.decode("utf-8", "replace").replace("\r\n", "\n")
    safe = _UNSAFE.sub(_escape, text).rstrip("\n")
    encoded = safe.encode()
    if len(encoded) > limit:
        cut = True
        encoded = encoded[-limit:]
    if cut:
        _, line_feed, rest = encoded.partition(b"\n")
        encoded = rest if line_feed else encoded
    return encoded.decode("utf-8", "ignore")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
