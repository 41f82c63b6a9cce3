"""A freeze: the ceiling lowered for everybody, a group or a provider; what it stops, and who may set it; pure."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from nanoclaw_broker.granting import check_grantee
from nanoclaw_broker.policy import Level
from nanoclaw_core.errors import denied, invalid
from nanoclaw_core.ids import check_name
from nanoclaw_core.principal import Caller


class Scope(enum.StrEnum):
    """For whom the ceiling is lowered."""

    ALL = "all"
    GROUP = "group"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Freeze:
    """A ceiling in force. name: of the group or the provider, empty for all."""

    scope: Scope
    name: str
    max_level: Level
    reason: str = ""

    def stops(self, level: Level) -> bool:
        """Whether a call of that level is above it; L0 stops all, also what nobody knows the level of."""
        return self.max_level is Level.L0 or level > self.max_level

    @property
    def target(self) -> str:
        """What is frozen, in words."""
        return "all calls" if self.scope is Scope.ALL else f"{self.scope.value} {self.name}"


def binding(freezes: Iterable[Freeze], level: Level) -> Freeze | None:
    """The lowest of those that stop a call of that level; None where none does."""
    return min((one for one in freezes if one.stops(level)), key=lambda one: one.max_level, default=None)


def aim(group: str, provider: str) -> tuple[Scope, str]:
    """The scope that a request names. Raises INVALID_FIELD."""
    if group and provider:
        raise invalid("provider", "is given besides group", "name a group or a provider; freeze each, or all")
    if group:
        return Scope.GROUP, check_grantee("group", group)
    if provider:
        return Scope.PROVIDER, check_name("provider", provider)
    return Scope.ALL, ""


def changes(wanted: Freeze, held: Freeze | None, by: Caller) -> bool:
    """Whether a freeze is to be written: not by main where the ceiling is as low already.

    Raises FREEZE_IS_LOWER where main would raise one.
    """
    if held is None or by.is_admin or wanted.max_level < held.max_level:
        return True
    if wanted.max_level > held.max_level:
        raise denied(
            "FREEZE_IS_LOWER",
            f"{held.target} may do {held.max_level.name} at the most already; only an admin raises that",
            "leave it, or ask an operator with the role admin",
        )
    return False
