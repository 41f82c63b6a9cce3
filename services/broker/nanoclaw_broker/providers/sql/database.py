"""A database as the provider sees it, and the operator's list of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field, StringConstraints

from nanoclaw_broker.providers.base import ActionFailed, Section

EFFECTS = "nanoclaw_effects"
"""The table, in the remote database, with one row for each effect; it is made at the first write."""
DONE, VOID = "done", "void"
GIVEN_UP = "read the call: it says what became of it; then ask anew"


class DatabaseSection(Section):
    """`[sql.databases.NAME]`.

    url: postgresql://user@host/name, or sqlite:///absolute/path. The password is the broker's secret
    `sql_NAME_password`, where there is one. seconds: for one statement.
    """

    url: str = Field(min_length=9)
    seconds: float = Field(default=10.0, gt=0, le=20)


class SqlSection(Section):
    """`[sql]`."""

    databases: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")], DatabaseSection] = Field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """What a statement answered. affected: rows that it changed. whole: False where more rows were there."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    affected: int = 0
    whole: bool = True


def effect_void() -> ActionFailed:
    """The call's key was made void, since somebody looked for its effect and it had none."""
    message = "the call was given up meanwhile; nothing was done"
    return ActionFailed("EFFECT_VOID", message, next_steps=(GIVEN_UP,))


class RemoteDatabase(Protocol):
    """One of the operator's databases.

    What it answers with a no is ActionFailed; whatever else a write raises says nothing about whether it happened.
    """

    async def read(self, sql: str, values: Sequence[Any], most: int) -> Rows:
        """One statement in a transaction that can only read; `most` rows."""
        ...

    async def write(self, sql: str, values: Sequence[Any], key: str, most: int) -> Rows:
        """One statement and the row of its effect, in one transaction."""
        ...

    async def happened(self, key: str) -> bool:
        """Whether a write with that key was committed; where not, its key is made void, so that it never will be."""
        ...
