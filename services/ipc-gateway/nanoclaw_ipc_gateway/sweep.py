"""The net under inotify, and what grows old: a slow round over all mailboxes, and nothing in between."""

import asyncio
import os
import time
from datetime import timedelta

import structlog

from nanoclaw_core import clock
from nanoclaw_ipc_gateway import folders, records
from nanoclaw_ipc_gateway.intake import Box, Intake
from nanoclaw_ipc_gateway.replies import Replies
from nanoclaw_ipc_gateway.snapshots import Snapshots
from nanoclaw_store import Database

log = structlog.get_logger()

ANSWER_HOURS = 24
"""How long response files and recorded answers are kept."""

EXPIRY_SECONDS = 600.0
"""How often the old ones are looked for."""

MOST = 20_000
"""Response files that one round looks at in one mailbox."""


class Sweep:
    """The round."""

    def __init__(
        self,
        intake: Intake,
        replies: Replies,
        snapshots: Snapshots,
        database: Database,
        seconds: float,
        now: clock.Clock,
    ) -> None:
        self._intake = intake
        self._snapshots = snapshots
        self._replies = replies
        self._database = database
        self._seconds = seconds
        self._now = now
        self._expired_at = time.monotonic()

    async def run(self) -> None:
        """Goes round for ever; what goes wrong in one round is logged, and the next one is tried."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                self.round()
                if time.monotonic() - self._expired_at >= EXPIRY_SECONDS:
                    self._expired_at = time.monotonic()
                    await self.expire()
            except Exception:
                log.exception("sweep failed")

    def round(self) -> None:
        """Restores directories that an agent has moved away, takes in what was missed, finishes what was left."""
        for box in self._intake.boxes():
            try:
                self._visit(box)
            except OSError as error:
                log.error("mailbox not swept", mailbox=box.number, error=str(error))
        for box in self._intake.open_all():
            self._snapshots.show(box.mailbox)
        self._intake.resume()
        self._replies.deliver_left()

    def _visit(self, box: Box) -> None:
        if box.mailbox.restore() and box.watch is not None:
            box.watch.start()
        box.stuck.clear()
        self._intake.look(box, fresh=False)

    async def expire(self) -> None:
        """Removes response files and recorded answers older than a day."""
        limit = self._now() - timedelta(hours=ANSWER_HOURS)
        for box in self._intake.boxes():
            responses = os.dup(box.mailbox.folder("responses"))
            try:
                await asyncio.to_thread(_remove_older, responses, limit.timestamp())
            finally:
                folders.close(responses)
        before = clock.to_text(limit)
        if self._database.read(lambda tx: records.old_answers(tx, before)):
            await self._database.write(lambda tx: records.forget_answers(tx, before))


def _remove_older(folder: int, moment: float) -> None:
    for name, found in folders.matching(folder, "", MOST):
        if found.st_mtime < moment:
            folders.remove(folder, name)
