"""What a statement may begin with; the database itself then holds reads to reading and everything to one statement."""

import re

from nanoclaw_broker.providers.base import Refused

# Possessive: agents write it, and forty spaces before a digit would be tried in every way there is to part them.
_BEGINNING = re.compile(r"(?:\s++|--[^\n]*+(?:\n|\Z)|/\*.*?\*/|\()*+([A-Za-z]++)", re.DOTALL)
READS = ("SELECT", "WITH", "VALUES", "TABLE")
WRITES = ("INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "REPLACE")


def first_word(sql: str) -> str:
    """The keyword that a statement begins with, in capitals; empty where it begins with none."""
    match = _BEGINNING.match(sql)
    return match[1].upper() if match else ""


def check(sql: str, allowed: tuple[str, ...]) -> None:
    """Raises Refused STATEMENT_NOT_ALLOWED; transactions, settings and definitions are not for agents."""
    word = first_word(sql)
    if word not in allowed:
        raise Refused(
            "STATEMENT_NOT_ALLOWED",
            f"sql: begins with {word or 'no keyword'}, not with one of {', '.join(allowed)}",
            "send one statement of these kinds",
        )
