"""A text that was cut off says so, since a secret that was cut in two can only be known by its beginning."""

from collections.abc import Collection

CUT = "…"
_MOST_NAMES = 100


def excerpt(text: str, most: int) -> str:
    """The text's first `most` characters; one that was longer ends in CUT."""
    return text if len(text) <= most else text[:most] + CUT


def some(names: Collection[str]) -> str:
    """Names within a sentence, sorted; of very many the first ones, and how many more there are."""
    first = sorted(names)[:_MOST_NAMES]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
