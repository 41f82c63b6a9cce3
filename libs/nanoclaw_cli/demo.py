"""The main job, live in the terminal: governed tasks from INBOX to DONE through four services and their agents."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table

from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli import scenario
from nanoclaw_cli.board import Board, state_name
from nanoclaw_cli.stage import Stage
from nanoclaw_core.errors import NanoclawError


@dataclass
class Demo:
    """One run of the demo; ids carry its start time, so that it can be run again over the same data."""

    stage: Stage
    console: Console
    run_id: str = field(default_factory=lambda: f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    board: Board = field(default_factory=Board)
    paths: dict[str, list[str]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    _live: Live | None = None

    async def run(self) -> bool:
        """Plays on the stage, waits for the end, shows it. Answers whether all is where it must be."""
        self.board.headline = self.stage.headline
        with self._view():
            async with self.stage.running(self._service):
                self.board.headline = self.stage.headline
                try:
                    async with asyncio.timeout(self.stage.patience):
                        await self._play()
                except TimeoutError:
                    self._fact(f"gave up after {self.stage.patience:g} s; {self.stage.logs}")
                await self._read_histories()
        return await self._show()

    @contextlib.contextmanager
    def _view(self) -> Iterator[None]:
        if not self.console.is_terminal:  # a pipe or CI: the facts as lines
            yield
            return
        with Live(get_renderable=self.board.render, console=self.console, refresh_per_second=8) as self._live:
            yield

    def _service(self, name: str, what: str) -> None:
        self.board.services[name] = what
        if self._live is None and what in ("serving", "stopped"):
            self.console.print(f"{name}: {what}")

    def _fact(self, text: str) -> None:
        self.board.facts.append(text)
        if self._live is None:
            self.console.print(text, markup=False)

    @contextlib.asynccontextmanager
    async def _governance(self) -> "AsyncIterator[governance_pb2_grpc.GovernanceServiceAsyncStub]":
        async with self.stage.connect("governance") as channel:
            yield governance_pb2_grpc.GovernanceServiceStub(channel)

    async def _play(self) -> None:
        stories = scenario.stories(self.run_id)
        async with (
            self._governance() as governance,
            self.stage.connect("broker") as channel,
        ):
            head = (await governance.GetStatus(pb.GetStatusRequest())).head
            watching = asyncio.create_task(self._watch(governance, head, {s.request.id for s in stories if s.states}))
            try:
                alive, killed = scenario.products(self.run_id)
                await governance.CreateProduct(alive)
                await governance.CreateProduct(killed)
                await governance.UpdateProduct(
                    pb.UpdateProductRequest(
                        request_id=f"{self.run_id}-kill", product_id=killed.id, status=pb.PRODUCT_STATUS_KILLED
                    )
                )
                await broker_pb2_grpc.BrokerServiceStub(channel).Grant(scenario.grant(self.run_id))
                for story in stories:
                    await self._load(governance, story)
                await watching
            finally:
                watching.cancel()

    async def _load(self, governance: "governance_pb2_grpc.GovernanceServiceAsyncStub", story: scenario.Story) -> None:
        try:
            await governance.CreateTask(story.request)
        except NanoclawError as error:
            self.refusals[story.request.id] = error.reason
            self._fact(f"{story.request.id}  refused: {error.reason}: {error.message}")
            return
        for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
            await self._move(governance, story.request.id, state, "the founder wants it")

    async def _move(
        self,
        governance: "governance_pb2_grpc.GovernanceServiceAsyncStub",
        task_id: str,
        state: "pb.TaskState.ValueType",
        reason: str,
        once: str = "",
    ) -> None:
        request_id = f"{task_id}-{state_name(state)}{once}"
        await governance.TransitionTask(
            pb.TransitionTaskRequest(request_id=request_id, task_id=task_id, to_state=state, reason=reason)
        )

    async def _watch(
        self,
        governance: "governance_pb2_grpc.GovernanceServiceAsyncStub",
        head: pb.Cursor,
        waiting: set[str],
    ) -> None:
        """Follows the log until every task waited for is DONE; unblocks as a person would."""
        async for row in governance.WatchTasks(pb.WatchTasksRequest(cursor=head)):
            fact = row.activity
            if not fact.task_id.startswith(self.run_id):
                continue
            self.board.tasks[fact.task_id] = (await governance.GetTask(pb.GetTaskRequest(task_id=fact.task_id))).task
            if fact.action != "transition":
                continue
            states = f"{state_name(fact.from_state)} → {state_name(fact.to_state)}"
            reason = fact.reason.partition("\n")[0][:80]
            self._fact(f"{fact.task_id}  {states:<20} {fact.principal:<18} {reason}")
            if fact.to_state == pb.TASK_STATE_BLOCKED:
                answer = "credits belong to the 2026 ledger"  # each time that it asks
                await self._move(governance, fact.task_id, pb.TASK_STATE_DOING, answer, f"-{fact.cursor.seq}")
            if fact.to_state == pb.TASK_STATE_DONE:
                waiting.discard(fact.task_id)
            if not waiting:
                return

    async def _read_histories(self) -> None:
        async with self._governance() as governance:
            for task_id in self.board.tasks:
                answer = await governance.ListActivities(pb.ListActivitiesRequest(task_id=task_id, page_size=200))
                moves = [fact for fact in answer.activities if fact.action in ("create", "transition")]
                self.paths[task_id] = [state_name(fact.to_state) for fact in moves]

    async def _show(self) -> bool:
        """Each task's history, the log's verification and the trace; answers whether all is as it must be."""
        table = Table(title="what happened", title_justify="left")
        for heading in ("task", "what it shows", "its path", "as it must be"):
            table.add_column(heading)
        right = []
        for story in scenario.stories(self.run_id):
            path = self.paths.get(story.request.id, [])
            refusal = self.refusals.get(story.request.id, "")
            right.append(refusal == story.refusal and tuple(path) == story.states)
            table.add_row(
                story.request.id,
                story.name,
                " → ".join(path) or f"refused: {refusal}",
                "yes" if right[-1] else "[red]no",
            )
        self.console.print(table)
        verdict = await self.stage.verdict()
        self.console.print(
            f"[red]log broken: {verdict.findings[:3]}"
            if verdict.findings
            else f"log: {verdict.rows} rows, chain whole, state equals the fold of the log"
        )
        first = self.board.tasks.get(f"{self.run_id}-1")
        if first is not None:
            self.stage.show_trace(self.console, first, first.traceparent.split("-")[1] if first.traceparent else "")
        return all(right) and not verdict.findings


async def demo(stage: Stage, console: Console) -> bool:
    """Plays the demo; False where a task is not where it must be when the stage's patience ends.

    Raises NanoclawError where a service does not start, or is not there.
    """
    return await Demo(stage, console).run()
