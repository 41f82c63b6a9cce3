"""Times at the edge: TEXT inside, google.protobuf.Timestamp on the wire."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from nanoclaw_core.clock import from_text, to_text
from nanoclaw_core.errors import invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_timestamp(text: str) -> Timestamp:
    """The Timestamp of a TEXT time."""
    since = from_text(text) - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def to_optional(text: str | None) -> Timestamp | None:
    """The Timestamp of a TEXT time, None (an unset field) for none."""
    return to_timestamp(text) if text else None


def from_timestamp(timestamp: Timestamp, field: str = "timestamp") -> str:
    """The TEXT form; nanoseconds are cut to microseconds. Raises INVALID_FIELD for what is no time of this era."""
    if not 0 <= timestamp.nanos < 1_000_000_000:
        raise invalid(field, "is not a valid time", "send a google.protobuf.Timestamp")
    try:
        return to_text(_EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000))
    except OverflowError:
        raise invalid(field, "is not a valid time", "send a google.protobuf.Timestamp") from None
