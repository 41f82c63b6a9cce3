"""Snapshots in mailboxes: refreshed when governance or the broker says that something changed, where it shows."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_core import clock
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_ipc_gateway import views
from nanoclaw_ipc_gateway.board import Board
from nanoclaw_ipc_gateway.catalog import Catalog
from nanoclaw_ipc_gateway.mailbox import Mailbox

if TYPE_CHECKING:
    from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceAsyncStub
    from nanoclaw.governance.v1.governance_pb2_grpc import GovernanceServiceAsyncStub


log = structlog.get_logger()

PIPELINE = "gov_pipeline.json"
CAPABILITIES = "ext_capabilities.json"
SCHEDULED = "current_tasks.json"

COALESCE = 0.02
"""Seconds that changes are collected for."""

REST = 10
"""After a refresh it rests this many times as long as it took: a storm of changes costs a tenth of a core at most."""

MANY = 64
"""More changed tasks than this are read as a list."""

_DONE = [governance.TASK_STATE_DONE]
_UNFINISHED = [state for state in governance.TaskState.values() if state not in (0, *_DONE)]


class Snapshots:
    """Two streams followed, what they lead to kept in memory, and the files in the open mailboxes."""

    def __init__(
        self,
        governance_stub: "GovernanceServiceAsyncStub",
        broker_stub: "BrokerServiceAsyncStub",
        mailboxes: Callable[[], Iterable[Mailbox]],
        now: clock.Clock,
        most_tasks: int,
    ) -> None:
        self._governance = governance_stub
        self._broker = broker_stub
        self._mailboxes = mailboxes
        self._now = now
        self._board = Board(most_tasks)
        self._catalog = Catalog()
        self._changed: set[str] = set()
        self._all_changed = False
        self._tasks_wake = asyncio.Event()
        self._grants_wake = asyncio.Event()
        self._tasks_known = asyncio.Event()
        self._grants_known = asyncio.Event()

    async def run(self) -> None:
        """Follows both services for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_again(self._follow_tasks))
            group.create_task(_again(self._follow_grants))
            group.create_task(_again(lambda: _refresh(self._tasks_wake, self._read_changed)))
            group.create_task(_again(lambda: _refresh(self._grants_wake, self._read_grants)))

    async def prepare(self, mailbox: Mailbox, patience: float = 1.0) -> None:
        """Puts snapshots into a mailbox that is about to be used, its own task as fresh as can be."""
        with contextlib.suppress(NanoclawError, TimeoutError):
            async with asyncio.timeout(patience):
                await self._tasks_known.wait()
                if mailbox.origin.task_id:
                    self._show_tasks(await self._read(mailbox.origin.task_id))
                await self._grants_known.wait()
        self.show(mailbox)

    def show(self, mailbox: Mailbox) -> None:
        """Writes all snapshots of a mailbox; empty ones only where nothing is known yet, and nothing was before."""
        self._write(mailbox, SCHEDULED, views.SCHEDULED_TASKS)
        if self._tasks_known.is_set() or not mailbox.shows(PIPELINE):
            self._write_tasks(mailbox)
        if self._grants_known.is_set() or not mailbox.shows(CAPABILITIES):
            self._write_grants(mailbox)

    async def _follow_tasks(self) -> None:
        status = await self._governance.GetStatus(governance.GetStatusRequest())
        groups = await self._list()
        first = not self._tasks_known.is_set()
        self._tasks_known.set()
        self._show_tasks({mailbox.origin.group for mailbox in self._mailboxes()} if first else groups)
        async for news in self._governance.WatchTasks(governance.WatchTasksRequest(cursor=status.head)):
            if news.HasField("activity"):
                if news.activity.task_id:
                    self._changed.add(news.activity.task_id)
                else:  # a product: its name stands in its tasks
                    self._all_changed = True
                self._tasks_wake.set()

    async def _read_changed(self) -> None:
        changed, self._changed = self._changed, set()
        everything, self._all_changed = self._all_changed or len(changed) > MANY, False
        groups: set[str] = set()
        try:
            if everything:
                groups = await self._list()
            else:
                for task_id in changed:
                    groups |= await self._read(task_id)
        except BaseException:
            self._changed |= changed
            self._all_changed |= everything
            raise
        finally:
            self._show_tasks(groups)

    async def _read(self, task_id: str) -> set[str]:
        try:
            found = await self._governance.GetTask(governance.GetTaskRequest(task_id=task_id))
        except NanoclawError as error:
            if error.kind is Kind.NOT_FOUND:
                return set()
            raise
        return self._board.put(found.task)

    async def _list(self) -> set[str]:
        """Unfinished tasks first: where there are more than snapshots hold, done ones are left out."""
        found: list[governance.Task] = []
        more = False
        for states in (_UNFINISHED, _DONE):
            token = ""
            while len(found) < self._board.most:
                page = await self._governance.ListTasks(
                    governance.ListTasksRequest(states=states, page_size=500, page_token=token)
                )
                found.extend(page.tasks)
                token = page.next_page_token
                if not token:
                    break
            more |= bool(token) or len(found) >= self._board.most
        return self._board.replace(found[: self._board.most], truncated=more)

    async def _follow_grants(self) -> None:
        async for _ in self._broker.WatchCapabilities(broker.WatchCapabilitiesRequest()):
            self._grants_wake.set()

    async def _read_grants(self) -> None:
        found: list[broker.GroupCapability] = []
        providers: list[str] = []
        token = ""
        while True:
            page = await self._broker.ListCapabilities(broker.ListCapabilitiesRequest(page_size=500, page_token=token))
            found.extend(page.capabilities)
            providers = list(page.providers_available) or providers
            token = page.next_page_token
            if not token:
                break
        groups = self._catalog.replace(found, providers)
        if not self._grants_known.is_set():
            groups = None
            self._grants_known.set()
        for mailbox in self._mailboxes():
            if groups is None or mailbox.origin.group in groups:
                self._write_grants(mailbox)

    def _show_tasks(self, groups: set[str]) -> None:
        for mailbox in self._mailboxes():
            if mailbox.origin.group in groups:
                self._write_tasks(mailbox)

    def _write_tasks(self, mailbox: Mailbox) -> None:
        tasks = self._board.seen_by(mailbox.origin.group)
        now = clock.to_text(self._now())
        self._write(mailbox, PIPELINE, views.pipeline(tasks, now, truncated=self._board.truncated))

    def _write_grants(self, mailbox: Mailbox) -> None:
        grants = self._catalog.seen_by(mailbox.origin.group)
        now = clock.to_text(self._now())
        self._write(mailbox, CAPABILITIES, views.capabilities(grants, self._catalog.providers, now))

    def _write(self, mailbox: Mailbox, name: str, content: bytes) -> None:
        try:
            mailbox.show(name, content)
        except OSError as error:
            log.warning("snapshot not written", mailbox=mailbox.origin.number, file=name, error=str(error))


async def _refresh(wake: asyncio.Event, read: Callable[[], Awaitable[None]]) -> None:
    """Reads what changed, once for a burst of changes, and rests in proportion."""
    loop = asyncio.get_running_loop()
    while True:
        await wake.wait()
        await asyncio.sleep(COALESCE)
        wake.clear()
        began = loop.time()
        try:
            await read()
        except BaseException:
            wake.set()
            raise
        await asyncio.sleep(min(2.0, REST * (loop.time() - began)))


async def _again(follow: Callable[[], Awaitable[None]]) -> None:
    """Follows anew whenever that ends; the other service may be starting, or gone for a while."""
    pause = 0.05
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await follow()
        except NanoclawError as error:
            log.info("snapshots wait", code=error.reason)
        except Exception:
            log.exception("snapshots stumbled")
        pause = 0.1 if loop.time() - began > 5 else min(2.0, pause * 2)
        await asyncio.sleep(pause)
