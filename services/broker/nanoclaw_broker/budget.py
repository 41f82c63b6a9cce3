"""What a group may spend: limits over a call, a day and for ever, of its own and of all groups together; pure."""

import enum
from dataclasses import dataclass, replace

MICROS_PER_CENT = 10_000


class Period(enum.StrEnum):
    """What a limit is over."""

    STEP = "step"
    """One call."""
    DAY = "day"
    """A day, UTC, by when the call was made."""
    TOTAL = "total"
    """For ever."""


@dataclass(frozen=True, slots=True)
class Line:
    """A limit with what is used of it. group: empty for all groups together. reserved: of calls under way."""

    group: str
    period: Period
    limit_cents: int
    reserved_micros: int = 0
    spent_micros: int = 0
    is_default: bool = False

    @property
    def left_micros(self) -> int:
        """What may still be reserved; 0 after an overrun."""
        return max(0, self.limit_cents * MICROS_PER_CENT - self.reserved_micros - self.spent_micros)

    def cents_for(self, micros: int) -> int:
        """The smallest limit under which a call of so much would pass."""
        needed = micros + self.reserved_micros + self.spent_micros
        return -(-needed // MICROS_PER_CENT)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a call may cost at the most, the limits that it meets, and why spending is frozen, if it is."""

    worst_micros: int = 0
    lines: tuple[Line, ...] = ()
    frozen_reason: str = ""

    def holding(self) -> "Budget":
        """The same for a call that is under way: what is reserved for itself does not stand in its way."""
        own = self.worst_micros
        return replace(
            self,
            lines=tuple(replace(line, reserved_micros=max(0, line.reserved_micros - own)) for line in self.lines),
        )

    @property
    def exceeded(self) -> Line | None:
        """The first limit that the call would pass beyond."""
        return next((line for line in self.lines if self.worst_micros > line.left_micros), None)
