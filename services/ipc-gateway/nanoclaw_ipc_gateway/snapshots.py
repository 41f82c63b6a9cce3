"""Snapshots in mailboxes: refreshed when governance or the broker says that something changed, where it shows."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_core import clock
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_ipc_gateway import board, views
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

COALESCE = 0.05
"""Seconds that changes are collected for."""

REST = 10
"""After a refresh it rests this many times as long as it worked: a storm of changes costs a tenth of a core at most."""

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
        self._following = False
        self._all_changed = False
        self._stale: set[str] = set()
        self._pipelines: dict[str, bytes] = {}
        self._tasks_wake = asyncio.Event()
        self._grants_wake = asyncio.Event()
        self._tasks_known = asyncio.Event()
        self._grants_known = asyncio.Event()

    async def run(self) -> None:
        """Follows both services for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_again(self._follow_tasks))
            group.create_task(_again(self._follow_grants))
            group.create_task(_again(lambda: _refresh(self._tasks_wake, self._show_changed)))
            group.create_task(_again(lambda: _refresh(self._grants_wake, self._read_grants)))

    async def prepare(self, mailbox: Mailbox, patience: float = 1.0) -> None:
        """Puts snapshots into a mailbox that is about to be used, its own task as fresh as can be."""
        task_id = mailbox.origin.task_id
        with contextlib.suppress(NanoclawError, TimeoutError):
            async with asyncio.timeout(patience):
                await self._tasks_known.wait()
                if task_id and not (self._following and task_id in self._board):
                    await self._read(task_id)
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
        self._differs({mailbox.origin.group for mailbox in self._mailboxes()} if first else groups)
        await self._show_changed()
        wanted = governance.WatchTasksRequest(cursor=status.head, with_tasks=True)
        self._following = True
        try:
            async for news in self._governance.WatchTasks(wanted):
                self._note(news)
        finally:
            self._following = False

    def _note(self, news: governance.WatchTasksResponse) -> None:
        if news.HasField("task"):
            self._differs(self._board.put(news.task))
        elif news.HasField("activity"):  # of a product: its name stands in its tasks
            self._all_changed = True
            self._tasks_wake.set()

    def _differs(self, groups: set[str]) -> None:
        """What these groups see is not what their mailboxes show."""
        if groups:
            self._stale |= groups
            for group in groups:
                self._pipelines.pop(group, None)
            self._tasks_wake.set()

    async def _show_changed(self) -> float:
        """Brings the mailboxes up to date, one after the other; answers how many seconds of work that was."""
        if self._all_changed:
            self._all_changed = False
            try:
                self._differs(await self._list())
            except BaseException:
                self._all_changed = True
                raise
        stale, self._stale = self._stale, set()
        worked = 0.0
        for mailbox in list(self._mailboxes()):
            if mailbox.origin.group in stale and mailbox.is_open:
                began = time.perf_counter()
                self._write_tasks(mailbox)
                worked += time.perf_counter() - began
                await asyncio.sleep(0)  # requests go first
        return worked

    async def _read(self, task_id: str) -> None:
        try:
            found = await self._governance.GetTask(governance.GetTaskRequest(task_id=task_id))
        except NanoclawError as error:
            if error.kind is Kind.NOT_FOUND:
                return
            raise
        self._differs(self._board.put(found.task))

    async def _list(self) -> set[str]:
        """Unfinished tasks first: where there are more than snapshots hold, done ones are left out."""
        found: list[governance.Task] = []
        more, size = False, 0
        for states in (_UNFINISHED, _DONE):
            token = ""
            while len(found) < self._board.most and size < board.MOST_TEXT:
                page = await self._governance.ListTasks(
                    governance.ListTasksRequest(states=states, page_size=500, page_token=token)
                )
                found.extend(page.tasks)
                size += page.ByteSize()
                token = page.next_page_token
                if not token:
                    break
            more |= bool(token) or len(found) >= self._board.most or size >= board.MOST_TEXT
        return self._board.replace(found[: self._board.most], truncated=more)

    async def _follow_grants(self) -> None:
        async for _ in self._broker.WatchCapabilities(broker.WatchCapabilitiesRequest()):
            self._grants_wake.set()

    async def _read_grants(self) -> float:
        began = time.perf_counter()
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
        return time.perf_counter() - began

    def _write_tasks(self, mailbox: Mailbox) -> None:
        group = mailbox.origin.group
        content = self._pipelines.get(group)
        if content is None:
            tasks, now = self._board.seen_by(group), clock.to_text(self._now())
            content = self._pipelines[group] = views.pipeline(tasks, now, truncated=self._board.truncated)
        self._write(mailbox, PIPELINE, content)

    def _write_grants(self, mailbox: Mailbox) -> None:
        grants = self._catalog.seen_by(mailbox.origin.group)
        now = clock.to_text(self._now())
        self._write(mailbox, CAPABILITIES, views.capabilities(grants, self._catalog.providers, now))

    def _write(self, mailbox: Mailbox, name: str, content: bytes) -> None:
        try:
            mailbox.show(name, content)
        except OSError as error:
            log.warning("snapshot not written", mailbox=mailbox.origin.number, file=name, error=str(error))


async def _refresh(wake: asyncio.Event, refresh: Callable[[], Awaitable[float]]) -> None:
    """Shows what changed, once for a burst of changes, and rests in proportion to the work that it says it was."""
    while True:
        await wake.wait()
        await asyncio.sleep(COALESCE)
        wake.clear()
        try:
            worked = await refresh()
        except BaseException:
            wake.set()
            raise
        await asyncio.sleep(min(2.0, REST * worked))


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
