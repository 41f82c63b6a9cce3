"""The main job, live in the terminal: governed tasks from INBOX to DONE through four services and their agents."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli import ballot, scenario
from nanoclaw_cli.announcement import VOTERS
from nanoclaw_cli.board import Board, state_name
from nanoclaw_cli.ending import Ending
from nanoclaw_cli.stage import Stage
from nanoclaw_cli.words import CALL_STATES
from nanoclaw_core.errors import NanoclawError


@dataclass
class Demo:
    """One run of the demo; ids carry its start time, so that it can be run again over the same data."""

    stage: Stage
    console: Console
    run_id: str = field(default_factory=lambda: f"demo-{datetime.now(UTC):%m%d-%H%M%S}")
    board: Board = field(default_factory=Board)
    ending: Ending = field(default_factory=Ending)
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
        return await self.ending.show(self.stage, self._stories, self.board.tasks.get(f"{self.run_id}-1"), self.console)

    @contextlib.contextmanager
    def _view(self) -> Iterator[None]:
        if not self.console.is_terminal:  # a pipe or CI: the facts as lines
            yield
            return
        with Live(self.board, console=self.console, refresh_per_second=8) as self._live:
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

    @property
    def _stories(self) -> list[scenario.Story]:
        written = self.stage.announcement
        return scenario.stories(self.run_id, written.url if written is not None else "")

    async def _play(self) -> None:
        stories = self._stories
        async with (
            self._governance() as governance,
            self.stage.connect("broker") as channel,
        ):
            head = (await governance.GetStatus(pb.GetStatusRequest())).head
            watching = asyncio.create_task(self._watch(governance, head, {s.request.id for s in stories if s.states}))
            voting = asyncio.create_task(self._vote())
            try:
                alive, killed = scenario.products(self.run_id)
                await governance.CreateProduct(alive)
                await governance.CreateProduct(killed)
                await governance.UpdateProduct(
                    pb.UpdateProductRequest(
                        request_id=f"{self.run_id}-kill", product_id=killed.id, status=pb.PRODUCT_STATUS_KILLED
                    )
                )
                for grant in scenario.grants(self.run_id):
                    await broker_pb2_grpc.BrokerServiceStub(channel).Grant(grant)
                for story in stories:
                    await self._load(governance, story)
                await asyncio.gather(watching, voting)
            finally:
                watching.cancel()
                voting.cancel()

    async def _vote(self) -> None:
        if self.stage.announcement is None:
            self._fact(
                "left out: the write with two votes, to a server here that no container reaches; `make demo` plays it"
            )
            return
        await ballot.vote(
            lambda operator: self.stage.connect("broker", operator),
            scenario.write_task(self.run_id),
            VOTERS,
            self._looked,
            self._voted,
        )

    async def _looked(self, operator: str, pending: broker.PendingCall) -> None:
        call = f"{pending.call.provider}.{pending.call.action}"
        self.board.call = pending.rendered
        self.board.call_title = f"{call} waits: votes needed {pending.votes_needed}"
        if self._live is not None:
            await asyncio.sleep(1.0)  # to be read, as an operator would
        elif operator == VOTERS[0]:
            self.console.print(f"{pending.call.task_id}  {call} waits for votes; it would do:", markup=False)
            self.console.print("\n".join(f"    {line}" for line in pending.rendered.splitlines()), markup=False)

    def _voted(self, operator: str, call: broker.CallRecord) -> None:
        self.board.call_title = f"{call.provider}.{call.action}: {CALL_STATES.word(call.state)}"
        if call.state != broker.CALL_STATE_AWAITING_APPROVAL:
            self.board.call = ""
        self._fact(f"{call.task_id}  vote for {call.call_id:<26} operator:{operator:<9} {CALL_STATES.word(call.state)}")

    async def _load(self, governance: "governance_pb2_grpc.GovernanceServiceAsyncStub", story: scenario.Story) -> None:
        try:
            await governance.CreateTask(story.request)
        except NanoclawError as error:
            self.ending.refusals[story.request.id] = error.reason
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
            if fact.to_state == pb.TASK_STATE_REVIEW and self.board.tasks[fact.task_id].gate == pb.GATE_NONE:
                for state in (pb.TASK_STATE_APPROVAL, pb.TASK_STATE_DONE):
                    await self._move(governance, fact.task_id, state, "no gate: the founder looked at it")
            if fact.to_state == pb.TASK_STATE_DONE:
                waiting.discard(fact.task_id)
            if not waiting:
                return

    async def _read_histories(self) -> None:
        async with self._governance() as governance:
            for task_id in self.board.tasks:
                answer = await governance.ListActivities(pb.ListActivitiesRequest(task_id=task_id, page_size=200))
                moves = [fact for fact in answer.activities if fact.action in ("create", "transition")]
                self.ending.paths[task_id] = [state_name(fact.to_state) for fact in moves]
        async with self.stage.connect("broker") as channel:
            asked = broker.ListCallsRequest(task_id=scenario.write_task(self.run_id), provider="http", page_size=1)
            found = (await broker_pb2_grpc.BrokerServiceStub(channel).ListCalls(asked)).calls
            self.ending.write = found[0] if found else None


async def demo(stage: Stage, console: Console, told: Callable[[dict[str, Any]], None] | None = None) -> bool:
    """Plays the demo; False where a task is not where it must be when the stage's patience ends.

    told: given the ending for programs. Raises NanoclawError where a service does not start, or is not there.
    """
    played = Demo(stage, console)
    ok = await played.run()
    if told is not None:
        told(played.ending.report)
    return ok
