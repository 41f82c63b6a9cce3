"""What happens by the clock: leases renewed, the abandoned adopted, the slow sweep that catches what events missed."""

import asyncio
import contextlib
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog

from nanoclaw_core.clock import from_text
from nanoclaw_core.errors import NanoclawError
from nanoclaw_dispatcher import attempts, dispatches, leases, notes
from nanoclaw_dispatcher.lifecycle import LIVE
from nanoclaw_dispatcher.means import wait_event
from nanoclaw_dispatcher.runtime import Observed, Runtime
from nanoclaw_store import Tx

if TYPE_CHECKING:
    from nanoclaw_dispatcher.engine import Engine

log = structlog.get_logger()


class Upkeep:
    """The clockwork of an engine."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._means = engine.means
        self._soon = asyncio.Event()
        self._saved: notes.Place | None = None

    async def adopt(self) -> None:
        """Takes over what nobody drives, and goes on with it from its row."""
        means = self._means
        owner, seconds, alive = means.instance, means.limits.lease_seconds, means.alive
        if means.database.read(lambda tx: leases.adoptable(tx, owner, alive)):
            await means.database.write(lambda tx: leases.adopt(tx, owner, seconds, alive))
        await self.resume()

    async def resume(self) -> None:
        """Every open dispatch of ours is pursued or waits: after adoption, and after a pursuit that broke."""
        engine = self._engine

        def query(tx: Tx) -> list[dispatches.Held]:
            return dispatches.held_by(tx, self._means.instance)

        for dispatch, attempt in self._means.database.read(query):
            if attempt is not None:
                engine.drive(dispatch, attempt)
            elif dispatch["id"] not in engine.pursuits:
                is_new = not engine.queue.waits(dispatch["id"])
                engine.queue.wait(dispatch)
                if is_new:
                    engine.look(dispatch["task_id"])
                    if dispatch["cancelled_by"]:
                        engine.spawn(engine.cancel(dispatch))
        engine.queue.serve()

    async def keep_leases(self) -> None:
        """Renews them, lets go of what was taken over, adopts, and hears of what another dispatcher cancelled."""
        means, engine = self._means, self._engine
        owner, seconds = means.instance, means.limits.lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                held = await means.database.write(lambda tx: leases.renew(tx, owner, seconds))
                for dispatch_id in [*engine.pursuits]:
                    if dispatch_id not in held:
                        engine.let_go(dispatch_id)
                for dispatch in means.database.read(lambda tx: tx.all(dispatches.CANCELLED_OPEN)):
                    if dispatch["id"] in held:
                        await engine.cancel(dispatch)
                await self.adopt()
                await self._save_place()
            except NanoclawError as error:
                log.warning("upkeep_failed", reason=error.reason, message=error.message)

    async def _save_place(self) -> None:
        place = self._engine.follower.place
        if place is not None and place != self._saved:
            await self._means.database.write(lambda tx: notes.save_place(tx, place))
            self._saved = place

    def sweep_soon(self) -> None:
        """Now, instead of when the time has come."""
        self._soon.set()

    async def sweep_now_and_then(self) -> None:
        """The safety net; also how a dispatcher learns at its start what there is."""
        pause = 0.1
        while True:
            self._soon.clear()
            try:
                await self.sweep()
                pause = 0.1
                await wait_event(self._soon, self._means.limits.sweep_seconds)
            except NanoclawError as error:
                log.warning("sweep_failed", reason=error.reason, message=error.message, again_in_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    async def sweep(self) -> None:
        """Looks at every task in flight, at every open dispatch, and at everything that runs."""
        engine = self._engine
        known = {task.id for task in engine.board}
        listed = set()
        async for task, message in self._means.governance.in_flight():
            listed.add(task.id)
            await engine.consider(task, message)
        rows = self._means.database.read(lambda tx: tx.all(dispatches.OPEN))
        for task_id in (known | {row["task_id"] for row in rows}) - listed:
            engine.look(task_id)
        await self.resume()
        for runtime in self._means.runtimes.values():
            await self._tidy(runtime)

    async def _tidy(self, runtime: Runtime) -> None:
        """Stops what runs without a live row, and forgets what ended long ago."""
        for seen in await runtime.list():  # before the rows are read: a row comes before its process
            row = self._means.database.read(partial(attempts.find, attempt=seen.attempt_id))
            if row is not None and row["state"] in LIVE:
                continue
            with contextlib.suppress(NanoclawError):
                if not seen.over:
                    log.warning("orphan_stopped", attempt=seen.attempt_id, state=str(seen.state))
                    await runtime.stop(seen.attempt_id, 0)
                elif row is None or self._is_old(seen, row["ended_at"]):
                    await runtime.remove(seen.attempt_id)

    def _is_old(self, seen: Observed, ended_at: str) -> bool:
        ended = from_text(seen.ended_at or ended_at)
        return ended < self._means.clock() - timedelta(seconds=self._means.limits.keep_seconds)
