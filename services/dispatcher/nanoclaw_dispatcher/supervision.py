"""Watching over a running agent until nothing of it is alive: its exit, its timeouts, and who wants it stopped."""

import asyncio
import contextlib
import os
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nanoclaw_core.clock import from_text
from nanoclaw_core.errors import NanoclawError
from nanoclaw_dispatcher.ending import Outcome
from nanoclaw_dispatcher.governance import passes_later
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.runtime import EndReason, Observed, RunState

_SHORTEST_WAIT = 0.01


class Supervision:
    """Over one STARTED attempt. unwanted: stop it now. lingers: it has done its work and may only finish."""

    def __init__(self, means: Means, attempt: sqlite3.Row, unwanted: asyncio.Event, lingers: asyncio.Event) -> None:
        self._means = means
        self._attempt = attempt
        self._unwanted = unwanted
        self._lingers = lingers
        self._group = means.group(attempt["group_name"])
        runtime = means.runtime_of(attempt)
        assert runtime is not None, "what runs has a runtime"
        self._runtime = runtime
        self._linger_until: datetime | None = None

    async def until_over(self, seen: Observed) -> tuple[Observed, Outcome]:
        """Answers how it was seen when it was over, and the outcome: EXITED where it ended by itself."""
        if seen.over:
            return seen, Outcome.EXITED
        over = asyncio.create_task(self._exit())
        unwanted = asyncio.create_task(self._unwanted.wait())
        lingers = asyncio.create_task(self._lingers.wait())
        waiting: set[asyncio.Task[Any]] = {over, unwanted, lingers}
        try:
            while True:
                done, _ = await asyncio.wait(waiting, timeout=await self._pause(), return_when=asyncio.FIRST_COMPLETED)
                if over in done:
                    return over.result(), Outcome.EXITED
                outcome = Outcome.CANCELLED if unwanted in done else await self._overdue()
                if outcome is not None:
                    return await self._stop(outcome)
                if lingers in done:
                    waiting.discard(lingers)
                    self._linger_until = self._now + timedelta(seconds=self._means.limits.linger_seconds)
                    say_no_more(self._attempt["mailbox"])
        finally:
            for task in (over, unwanted, lingers):
                task.cancel()
            await asyncio.gather(over, unwanted, lingers, return_exceptions=True)

    @property
    def _now(self) -> datetime:
        return self._means.clock()

    async def _exit(self) -> Observed:
        return await self._means.steadily("wait for the exit", lambda: self._runtime.wait(self._attempt["id"]))

    async def _stop(self, outcome: Outcome) -> tuple[Observed, Outcome]:
        observed = await self._means.steadily(
            "stop", lambda: self._runtime.stop(self._attempt["id"], self._group.grace), most=1.0
        )
        # It may have ended by itself in the same moment: then that is how it ended.
        by_itself = observed.state is RunState.EXITED and observed.reason is not EndReason.STOPPED
        return observed, Outcome.EXITED if by_itself else outcome

    async def _deadlines(self) -> list[tuple[datetime, Outcome]]:
        started = from_text(self._attempt["started_at"])
        found = [
            (started + timedelta(seconds=self._group.wall_timeout), Outcome.WALL_TIMEOUT),
            (await self._last_sign() + timedelta(seconds=self._group.idle_timeout), Outcome.IDLE_TIMEOUT),
        ]
        if self._linger_until is not None:
            found.append((self._linger_until, Outcome.EXITED))
        return found

    async def _overdue(self) -> Outcome | None:
        now = self._now
        return next((outcome for at, outcome in await self._deadlines() if at <= now), None)

    async def _pause(self) -> float:
        first = min(at for at, _ in await self._deadlines())
        return max((first - self._now).total_seconds(), _SHORTEST_WAIT)

    async def _last_sign(self) -> datetime:
        """When it last wrote a line or a file; its start if it never did."""
        try:
            wrote = await self._runtime.last_output_at(self._attempt["id"])
        except NanoclawError as error:
            if not passes_later(error):
                raise
            wrote = ""
        stamps = [self._attempt["started_at"], wrote]
        seen = max(from_text(stamp) for stamp in stamps if stamp)
        filed = last_filed(self._attempt["mailbox"])
        return max(seen, datetime.fromtimestamp(filed, seen.tzinfo)) if filed else seen


def last_filed(mailbox: str) -> float:
    """When a file was last put into, or renamed in, what an agent writes of its mailbox; Unix time, 0 if never."""
    latest = 0.0
    for folder in ("tasks", "messages"):
        with contextlib.suppress(OSError):
            latest = max(latest, (Path(mailbox) / folder).lstat().st_mtime)
    return latest


def say_no_more(mailbox: str) -> None:
    """Tells an agent that waits for further prompts that none will come: `input/_close`. It need not listen."""
    with contextlib.suppress(OSError):
        folder = os.open(Path(mailbox) / "input", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.close(os.open("_close", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640, dir_fd=folder))
        finally:
            os.close(folder)
