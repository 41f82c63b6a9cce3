"""How much a group may ask: a bucket that refills, so that one group's flood is that group's own trouble."""

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_ipc_gateway.strict_json import MAX_BYTES

BYTES_PER_TOKEN = 16 * 1024
"""A file costs one token, and one more for each of these; one that is too large to be read costs one."""


class Limits:
    """One bucket for each group. A bucket holds a minute's worth."""

    def __init__(self, per_minute: int) -> None:
        """per_minute: small files a minute, on average; 0 for no limit."""
        self._per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, group: str, size_bytes: int, now: float) -> None:
        """Counts a file at the moment `now` (monotonic seconds). Raises EXHAUSTED RATE_LIMITED where it is too many."""
        if not self._per_minute:
            return
        rate = self._per_minute / 60
        level, since = self._buckets.get(group, (float(self._per_minute), now))
        level = min(float(self._per_minute), level + (now - since) * rate)
        cost = 1 + (size_bytes // BYTES_PER_TOKEN if size_bytes <= MAX_BYTES else 0)
        cost = min(cost, self._per_minute)  # a full bucket lets anything through
        allowed = level >= cost
        self._buckets[group] = (level - cost if allowed else level, now)
        if not allowed:
            wait = (cost - level) / rate
            raise NanoclawError(
                Kind.EXHAUSTED,
                "RATE_LIMITED",
                f"group {group} writes more than {self._per_minute} files a minute",
                next_step=f"wait {wait:.1f} seconds, then ask again",
                per_minute=self._per_minute,
                retry_after_ms=round(wait * 1000),
            )
