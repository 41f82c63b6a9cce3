"""Time as the system writes it: UTC, microseconds, TEXT `YYYY-MM-DDTHH:MM:SS.ffffffZ`; clocks are passed in."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Answers the present as an aware datetime in UTC."""


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """The TEXT form of an aware datetime; sorts as time does. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a moment needs its offset")
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def from_text(text: str) -> datetime:
    """The datetime of a TEXT form."""
    return datetime.fromisoformat(text)
