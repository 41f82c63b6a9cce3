"""Files are taken in: claimed in the order in which they came, worked on side by side, finished after a crash."""

import asyncio
import contextvars
import stat
import time
from collections.abc import Callable
from functools import partial

import structlog

from nanoclaw_core.errors import NanoclawError, not_found
from nanoclaw_ipc_gateway import claims, folders, mailboxes, records
from nanoclaw_ipc_gateway.claims import Claim
from nanoclaw_ipc_gateway.concluding import Concluder
from nanoclaw_ipc_gateway.deciding import Decider
from nanoclaw_ipc_gateway.mailbox import Home, Mailbox, Origin
from nanoclaw_ipc_gateway.seats import Room, Worker
from nanoclaw_ipc_gateway.watch import Watch
from nanoclaw_store import Database

log = structlog.get_logger()

PENDING = 5000
"""Names remembered for one mailbox; past that it is looked through again when they are done."""

FRESH = 2.0
"""Seconds for which the sweep leaves a file alone: its writer may still be at it, and inotify tells when it is done."""


class Box:
    """An open mailbox and what is going on in it.

    pending: files seen and not claimed yet, by source and name. stuck: those that can't be claimed, until the next
    sweep. busy: workers taken. flying: claims under way. taken: how many there have been.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.room = Room()
        self.pending: dict[tuple[str, str], None] = {}
        self.stuck: set[tuple[str, str]] = set()
        self.more = False
        self.busy = 0
        self.taken = 0
        self.flying: dict[str, asyncio.Task[str]] = {}
        self.watch: Watch | None = None

    @property
    def number(self) -> int:
        """Its mailbox's."""
        return self.mailbox.origin.number


class Intake:
    """All open mailboxes."""

    def __init__(self, home: Home, database: Database, decider: Decider, concluder: Concluder, *, workers: int) -> None:
        """workers: how many files of one mailbox are worked on at once, those that wait for the broker aside."""
        self._home = home
        self._database = database
        self._decider = decider
        self._concluder = concluder
        self._workers = workers
        self._boxes: dict[int, Box] = {}

    def boxes(self) -> list[Box]:
        """The mailboxes that are watched."""
        return [box for box in self._boxes.values() if box.watch is not None]

    def get(self, number: int) -> Box | None:
        """An open mailbox."""
        return self._boxes.get(number)

    @property
    def pending(self) -> int:
        """How many files are seen and not answered yet."""
        return sum(len(box.pending) + len(box.flying) for box in self._boxes.values())

    def open(self, origin: Origin) -> Box:
        """Watches a mailbox and takes in what lies there. Raises OSError where its directories can't be had."""
        box = self._box(origin)
        if box.watch is None:
            box.watch = Watch(box.mailbox, lambda source, name: self._seen(box, source, name), lambda: self.look(box))
            box.watch.start()
            self.look(box)
        return box

    def open_all(self) -> list[Box]:
        """Opens what should be open and is not; answers those. One that can't be had is tried again by the sweep."""
        opened = []
        for origin in self._database.read(mailboxes.open_ones):
            known = self._boxes.get(origin.number)
            if known is None or known.watch is None:
                try:
                    opened.append(self.open(origin))
                except OSError as error:
                    log.error("mailbox not opened", mailbox=origin.number, group=origin.group, error=str(error))
        return opened

    def look(self, box: Box, *, fresh: bool = True) -> bool:
        """Looks through a mailbox for files; True if there are any. fresh: those just written, too."""
        found = False
        before = time.time() - FRESH
        for source in ("tasks", "messages"):
            for name, what in folders.matching(box.mailbox.folder(source), ".json", PENDING + 1):
                if stat.S_ISDIR(what.st_mode) or (source, name) in box.stuck:
                    continue
                if fresh or not stat.S_ISREG(what.st_mode) or what.st_ctime < before:
                    found = True
                    self._offer(box, source, name)
        self._pump(box)
        return found

    async def drain(self, box: Box) -> int:
        """Stops to watch, takes in what lies there, and answers how many files that was, all answered by now."""
        if box.watch is not None:
            box.watch.stop()
        before = box.taken - len(box.flying)
        for _ in range(3):  # who still writes after its end is not waited for
            found = self.look(box)
            while box.flying:
                await asyncio.wait(list(box.flying.values()), return_when=asyncio.FIRST_COMPLETED)
            if not found:
                break
        return box.taken - before

    def close(self, box: Box) -> None:
        """Lets go of a drained mailbox."""
        if self._boxes.get(box.number) is box:
            del self._boxes[box.number]
            if box.watch is not None:
                box.watch.stop()
            box.mailbox.close()

    async def take_in(self, number: int, make: Callable[[], Claim]) -> str:
        """Works on a claim that did not come as a file, whatever its mailbox's state, and answers the answer."""
        box = self._box_of(number)
        return await asyncio.shield(self._start(box, make()))

    def resume(self) -> None:
        """Goes on with claims that nobody works on: left by a crash, or by an answer that could not be delivered."""
        under_way = {claim_id for box in self._boxes.values() for claim_id in box.flying}
        for claim in self._home.claims.left():
            if claim.id in under_way:
                continue
            try:
                box = self._box_of(claim.mailbox)
            except (NanoclawError, OSError) as error:
                log.error("claim left alone", claim=claim.id, mailbox=claim.mailbox, error=str(error))
                continue
            row = self._database.read(partial(records.find, record_id=claim.id))
            if row is None or row["state"] == records.RETRYING:
                self._start(box, claim)
            else:  # decided: only the answer may be missing
                self._concluder.deliver(claim, box.mailbox, row["name"] or "", row["answer"] or "")
                self._let_go(box)

    async def stop(self, seconds: float) -> None:
        """Takes nothing more in, gives what is under way the time, and leaves the rest to the next start."""
        for box in self._boxes.values():
            if box.watch is not None:
                box.watch.stop()
            box.pending.clear()
            box.more = False
        # Those who wait for a file's answer see the cancellation; the claim is finished after the next start.
        flying = [task for box in self._boxes.values() for task in box.flying.values()]
        if flying:
            _, late = await asyncio.wait(flying, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)
        for box in list(self._boxes.values()):
            self.close(box)

    def _box(self, origin: Origin) -> Box:
        box = self._boxes.get(origin.number)
        if box is None:
            box = self._boxes[origin.number] = Box(self._home.open(origin))
        return box

    def _box_of(self, number: int) -> Box:
        box = self._boxes.get(number)
        if box is not None:
            return box
        origin = self._database.read(lambda tx: mailboxes.find(tx, number))
        if origin is None:
            raise not_found("mailbox", str(number), "mailbox", "see ListQuarantine for what was kept of it")
        return self._box(origin)

    def _seen(self, box: Box, source: str, name: str) -> None:
        self._offer(box, source, name)
        self._pump(box)

    def _offer(self, box: Box, source: str, name: str) -> None:
        if len(box.pending) >= PENDING:
            box.more = True
        else:
            box.pending[(source, name)] = None

    def _pump(self, box: Box) -> None:
        """Claims as many files as there are workers for."""
        while box.busy < self._workers:
            if not box.pending:
                if not box.more:
                    return
                box.more = False
                self.look(box)
                return
            source, name = next(iter(box.pending))
            del box.pending[(source, name)]
            try:
                claim = self._home.claims.take(box.mailbox.folder(source), name, box.number, source)
            except FileNotFoundError:
                continue
            except OSError as error:
                box.stuck.add((source, name))
                log.warning("file not claimed", mailbox=box.number, file=claims.shown(name), errno=error.errno)
                continue
            self._start(box, claim)

    def _start(self, box: Box, claim: Claim) -> asyncio.Task[str]:
        box.busy += 1
        box.taken += 1

        def release() -> None:
            box.busy -= 1
            self._pump(box)

        loop = asyncio.get_running_loop()
        # An empty context: whoever happened to notice the file is not the one who asks.
        task = loop.create_task(self._work(box, claim, Worker(box.room, release)), context=contextvars.Context())
        box.flying[claim.id] = task
        return task

    async def _work(self, box: Box, claim: Claim, worker: Worker) -> str:
        began_ns = time.time_ns()
        try:
            outcome = await self._decider.decide(claim, box.mailbox, worker)
            return await self._concluder.conclude(claim, box.mailbox, outcome, began_ns)
        except NanoclawError as error:
            log.warning("claim left for later", claim=claim.id, code=error.reason)
            return ""
        except Exception:
            log.exception("claim left for later", claim=claim.id)
            return ""
        finally:
            box.flying.pop(claim.id, None)
            worker.free()
            self._let_go(box)

    def _let_go(self, box: Box) -> None:
        if box.watch is None and not box.flying and not box.pending:
            self.close(box)
