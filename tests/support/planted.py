"""Secrets that a test plants: how another side might write them back, and whether a text holds one in any way."""

import base64
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote


def _base64(encode: Callable[[bytes], bytes], before: int) -> Callable[[str], str]:
    return lambda secret: encode(b"user:"[:before] + secret.encode() + b"~~~").decode()


def _small(url: str) -> str:
    return re.sub("%..", lambda escape: escape[0].lower(), url)


ECHOES: Mapping[str, Callable[[str], str]] = {
    "plain": str,
    "in a sentence": lambda secret: f"invalid key {secret}, try another",
    "url": lambda secret: quote(secret, safe=""),
    "url with slashes": quote,
    "url in small letters": lambda secret: _small(quote(secret, safe="")),
    "hex": lambda secret: secret.encode().hex(),
    "HEX": lambda secret: secret.encode().hex().upper(),
    "json": json.dumps,
    "json in json": lambda secret: json.dumps(json.dumps(secret)),
    "html": html.escape,
    **{f"base64 at {before}": _base64(base64.b64encode, before) for before in (0, 1, 2)},
    **{f"base64url at {before}": _base64(base64.urlsafe_b64encode, before) for before in (0, 1, 2)},
}
"""What another side makes of a secret that it was sent."""


def needles(secret: str, *, whole: bool = False) -> Iterator[str]:
    """Texts that only this secret leads to. whole: in base64 all that it alone decides, not most of it."""
    yield from (secret, secret.encode().hex(), secret.encode().hex().upper(), html.escape(secret))
    for url in (quote(secret, safe=""), quote(secret)):
        yield from (url, _small(url))
    yield from (json.dumps(secret)[1:-1], json.dumps(json.dumps(secret)[1:-1])[1:-1])
    size = len(secret.encode())
    for before in (0, 1, 2):
        first, end = (-(-before * 4 // 3), (before + size) * 4 // 3) if whole else (4, 4 + (size - 6) * 4 // 3)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"..."[:before] + secret.encode() + b"~~~").decode()
            yield text[first:end]  # what stands around it decides the rest


def found(secrets: Mapping[str, str], texts: Mapping[str, str], *, whole: bool = False) -> list[str]:
    """Which secret stands in which text; names only. whole: see needles."""
    wanted = {name: set(needles(secret, whole=whole)) for name, secret in secrets.items()}
    return [
        f"{name} in {where}"
        for where, text in texts.items()
        for name, known in wanted.items()
        if any(needle in text for needle in known)
    ]
