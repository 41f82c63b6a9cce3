"""A text that was cut off says so, since a secret that was cut in two can only be known by its beginning."""

CUT = "…"


def excerpt(text: str, most: int) -> str:
    """The text's first `most` characters; one that was longer ends in CUT."""
    return text if len(text) <= most else text[:most] + CUT
