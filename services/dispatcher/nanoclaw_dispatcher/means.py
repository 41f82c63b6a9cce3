"""What the parts of the engine work with: the store, the two services they call, the runtimes, the limits."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from nanoclaw_core.clock import Clock, to_text, utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.ids import NewId, new_ulid
from nanoclaw_dispatcher.ending import RetryPolicy
from nanoclaw_dispatcher.governance import Governance, Mailboxes, passes_later
from nanoclaw_dispatcher.groups import Group, Groups, Role
from nanoclaw_dispatcher.leases import Alive
from nanoclaw_dispatcher.relays import Relays
from nanoclaw_dispatcher.runtime import Runtime
from nanoclaw_store import Database
from nanoclaw_telemetry import Telemetry, off

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts and seconds; the settings of the same names explain them."""

    max_containers: int = 3
    max_rework: int = 3
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    lease_seconds: float = 15.0
    sweep_seconds: float = 30.0
    linger_seconds: float = 30.0
    keep_seconds: float = 3600.0


@dataclass(frozen=True)
class Means:
    """Handed to everything that acts. runtimes: by the name that a group's `runtime` says."""

    database: Database
    governance: Governance
    mailboxes: Mailboxes
    relays: Relays
    runtimes: Mapping[str, Runtime]
    groups: Groups
    instance: str
    limits: Limits = field(default_factory=Limits)
    telemetry: Telemetry = field(default_factory=off)
    alive: Alive = lambda instance: True
    clock: Clock = utc_now
    new_id: NewId = new_ulid

    @property
    def now(self) -> str:
        """The present as TEXT."""
        return to_text(self.clock())

    def group(self, name: str) -> Group:
        """The group as configured; one that is configured no more keeps the default limits until it has ended."""
        return self.groups.get(name) or Group(name=name, role=Role.EXECUTOR)

    def runtime_of(self, attempt: sqlite3.Row) -> Runtime | None:
        """The runtime that has the attempt, whatever its group is configured to by now; for a new one, the group's, or
        None if this dispatcher does not have that."""
        having = (runtime for runtime in self.runtimes.values() if runtime.has(attempt["id"]))
        return next(having, self.runtimes.get(self.group(attempt["group_name"]).runtime))

    async def steadily(
        self, what: str, call: Callable[[], Awaitable[T]], *, give_up: asyncio.Event | None = None, most: float = 5.0
    ) -> T:
        """Repeats what may pass later, with growing pauses of at most `most` seconds, until it passes or is refused.

        Raises the refusal, and the last failure once `give_up` is set.
        """
        pause = 0.1
        while True:
            try:
                return await call()
            except NanoclawError as error:
                if not passes_later(error) or (give_up is not None and give_up.is_set()):
                    raise
                log.warning("dispatch_waits", what=what, reason=error.reason, again_in_seconds=pause)
            if give_up is None:
                await asyncio.sleep(pause)
            else:
                await wait_event(give_up, pause)
            pause = min(pause * 2, most)


async def wait_event(event: asyncio.Event, seconds: float) -> bool:
    """Waits at most so long; answers whether the event is set."""
    try:
        async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation
            await event.wait()
    except TimeoutError:
        return False
    return True
