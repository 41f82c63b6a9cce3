"""A slice: the part of the one database file that a service owns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Slice:
    """What a service owns, declared in its tables.py as SLICE.

    name: governance, broker, dispatcher or gateway. tables: every table it may write. migrations: the folder of its
    `0001_name.sql` files, in the package. log: its log table, if it has one. folded: state table → key columns; over
    these, state == fold(log) is checked.
    """

    name: str
    tables: frozenset[str]
    migrations: Path
    log: str = ""
    folded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strangers = sorted((self.folded.keys() | {self.log} - {""}) - self.tables)
        if strangers:
            raise ValueError(f"slice {self.name}: not among its tables: {', '.join(strangers)}")
