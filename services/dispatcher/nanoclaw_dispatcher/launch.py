"""From an inserted attempt to a running agent: claim and binding, mailbox, creation, start; all can be repeated."""

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import attempts, leases, notes, prompts
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.dispatch import Rule, waits
from nanoclaw_dispatcher.dispatches import rule_view
from nanoclaw_dispatcher.ending import End, Outcome
from nanoclaw_dispatcher.lifecycle import Code
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.runtime import EndReason, Observed, Runtime
from nanoclaw_dispatcher.task import Task, TaskState

A = TypeVar("A")
B = TypeVar("B")
PRODUCT_REFUSALS = frozenset({"PRODUCT_PAUSED", "PRODUCT_KILLED"})


class NotLaunched(NamedTuple):
    """Why there is no agent. waiting: nothing is wrong with the dispatch, it only has to wait for its product."""

    end: End
    code: Code = Code.NONE
    reason: str = ""
    waiting: bool = False


class Launch:
    """One launch of one attempt. give_up: set once the attempt is not wanted any more.

    fresh: the dispatch and its first attempt were inserted just now; False: any step may have been done before.
    """

    def __init__(
        self, means: Means, dispatch: sqlite3.Row, attempt: sqlite3.Row, give_up: asyncio.Event, *, fresh: bool
    ) -> None:
        self._means = means
        self._dispatch = dispatch
        self._attempt = attempt
        self._give_up = give_up
        self._fresh = fresh
        self.mailbox = ""
        self._relay = ""
        self.reading: tuple[Task, pb.Task] | None = None

    async def run(self) -> Observed | NotLaunched:
        """Starts the agent, at most once per attempt whatever died in between; answers it, or why there is none."""
        try:
            return await self._run()
        except NanoclawError as error:
            if isinstance(error, leases.LeaseLost):
                raise
            if error.reason == "TASK_NOT_FOUND":
                return NotLaunched(End(Outcome.CANCELLED), Code.WITHDRAWN, "the task is gone")
            detail = f"{error}; next: {error.next_step}" if error.next_step else str(error)
            return NotLaunched(End(Outcome.START_FAILED, detail=detail))

    async def _run(self) -> Observed | NotLaunched:
        means, attempt = self._means, self._attempt
        bound, self.mailbox = await both(self._claim_and_bind(), self._open())
        if isinstance(bound, NotLaunched):
            return bound
        self.reading = task, message = bound
        if not waits(task, rule_view(self._dispatch)):
            return NotLaunched(End(Outcome.CANCELLED), Code.WITHDRAWN, f"the task has moved: it is {task.state}")
        created = await self._create(message)
        if created.over or self._give_up.is_set():
            return NotLaunched(End(Outcome.CANCELLED))
        # A dispatcher that slept while its lease lapsed must not start what another has settled since.
        means.database.read(lambda tx: leases.hold(tx, self._dispatch["id"], means.instance))
        runtime = self._runtime()
        seen = await means.steadily("start", lambda: runtime.start(attempt["id"]), give_up=self._give_up)
        if seen.reason is EndReason.START_FAILED:
            detail = last_words(await runtime.last_lines(attempt["id"]))
            return NotLaunched(End(Outcome.START_FAILED, seen.exit_code, detail))
        return seen

    async def _open(self) -> str:
        """The mailbox, and the relay where the group has one."""
        means, attempt, give_up = self._means, self._attempt, self._give_up
        mailbox = means.steadily("open the mailbox", lambda: means.mailboxes.open(attempt), give_up=give_up)
        if not means.group(attempt["group_name"]).relay:
            return await mailbox
        relay = means.steadily("open the relay", lambda: means.relays.open(attempt), give_up=give_up)
        path, self._relay = await both(mailbox, relay)
        return path

    async def _claim_and_bind(self) -> tuple[Task, pb.Task] | NotLaunched:
        """Moves the task where the dispatch needs it, if it is not there; from then on the attempt acts for the group.

        The claim binds the dispatch's first attempt, whichever this one is: repeated under its key it has to say the
        same. A repetition is answered as before, so then the attempt is bound, and the task read, by itself.
        """
        dispatch, means = self._dispatch, self._means
        if not dispatch["to_state"]:
            return await self._bind()
        first = self._attempt
        if first["number"] != 1:
            first = means.database.read(lambda tx: attempts.first(tx, dispatch["id"]))
        binding = pb.AttemptBinding(group=first["group_name"], attempt_id=first["id"], fence=first["fence"])
        try:
            claimed = await means.steadily(
                "claim",
                lambda: means.governance.move(
                    dispatch["task_id"],
                    TaskState(dispatch["to_state"]),
                    request_id=dispatch["dispatch_key"],
                    version=dispatch["task_version"],
                    reason=f"dispatched to {dispatch['group_name']}",
                    bind=binding,
                ),
                give_up=self._give_up,
            )
        except NanoclawError as error:
            if error.kind is Kind.PRECONDITION and error.reason in PRODUCT_REFUSALS:
                return NotLaunched(End(Outcome.CANCELLED), reason=str(error), waiting=True)
            if self._give_up.is_set():
                return NotLaunched(End(Outcome.CANCELLED))
            return NotLaunched(End(Outcome.CANCELLED), Code.CLAIM_REFUSED, f"claim refused: {error}")
        if self._fresh:
            return await means.governance.as_task(claimed), claimed
        return await self._bind()

    async def _bind(self) -> tuple[Task, pb.Task]:
        attempt, means = self._attempt, self._means
        return await means.steadily(
            "bind",
            lambda: means.governance.bind(attempt["task_id"], attempt["group_name"], attempt["id"], attempt["fence"]),
            give_up=self._give_up,
        )

    async def _create(self, message: pb.Task) -> Observed:
        dispatch, attempt, means = self._dispatch, self._attempt, self._means
        name = attempt["group_name"]
        group, runtime = means.group(name), self._runtime()
        context = {}
        if dispatch["rule"] != Rule.EXECUTE:
            context = await means.steadily(
                "read the context pack",
                lambda: means.governance.context_pack(dispatch["task_id"]),
                give_up=self._give_up,
            )
        because = prompts.again(dispatch["because"], dispatch["reason"])
        text = prompts.prompt(Rule(dispatch["rule"]), message, reason=because, context=context)
        session = means.database.read(lambda tx: notes.session_of(tx, name))
        spec = AttemptSpec(
            attempt_id=attempt["id"],
            dispatch_key=dispatch["dispatch_key"],
            task_id=attempt["task_id"],
            group=group,
            mailbox=Path(self.mailbox),
            stdin=prompts.opening(attempt, text, session_id=session, is_main=group.is_main),
            traceparent=attempt["traceparent"],
            relay=Path(self._relay) if self._relay else None,
        )
        return await means.steadily("create", lambda: runtime.create(spec), give_up=self._give_up)

    def _runtime(self) -> Runtime:
        name = self._attempt["group_name"]
        if self._means.groups.get(name) is None:
            raise NanoclawError(
                Kind.PRECONDITION,
                "UNKNOWN_GROUP",
                f"no group {name!r} is configured",
                next_step="add it to config/groups.toml and restart the dispatcher",
            )
        runtime = self._means.runtime_of(self._attempt)
        if runtime is None:
            kind = self._means.group(name).runtime
            raise NanoclawError(
                Kind.PRECONDITION,
                "NO_RUNTIME",
                f"group {name} needs the runtime {kind}, which is not here",
                next_step="give the group another runtime in config/groups.toml and restart the dispatcher",
            )
        return runtime


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Runs the two at once and waits for both, even where one fails; raises what the first of them raised."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two


def last_words(lines: str) -> str:
    """The last line that an agent wrote, for a reason; markers and empty lines left out, at most 300 characters."""
    spoken = [line.strip() for line in lines.splitlines() if line.strip() and not line.startswith("---NANOCLAW")]
    return spoken[-1][:300] if spoken else ""
