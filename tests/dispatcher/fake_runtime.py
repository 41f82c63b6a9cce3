"""A runtime in memory, for the dispatcher's tests; it passes the same contract suite as the real ones.

`FakeEngine` is the far side: it outlives the dispatcher, as processes and containers do. `FakeRuntime` is one
dispatcher's view of it; make a second one over the same engine to be the dispatcher after a crash.

    async def agent(run: FakeRun) -> int:                 # what an agent does; the answer is its exit code
        run.write("hello\n")
        await call_governance(run.spec.task_id)
        return 0

    engine = FakeEngine(agent)
    runtime = FakeRuntime(engine)
    engine.fail("start", NanoclawError(…))                # the next start raises it; `ran=True`: after having done it
    engine.lose(attempt_id)                               # gone without an exit record
    engine.kill(attempt_id)                               # SIGKILL to the agent from outside
    assert engine.runs == [attempt_id]                    # every time that an agent really ran
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from nanoclaw_core.clock import Clock, to_text, utc_now
from nanoclaw_core.errors import Kind, NanoclawError, denied, not_found
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.runtime import EndReason, Isolation, Observed, RunState
from nanoclaw_dispatcher.tail import tail_lines

SIGKILLED = 137
SIGTERMED = 143
NO_COMMAND = 127


class CommandMissing(Exception):
    """Raised by an agent: its command could not be started."""


@dataclass
class FakeRun:
    """One attempt in the engine, and what its agent can do."""

    spec: AttemptSpec
    clock: Clock
    seen: Observed
    output: bytearray = field(default_factory=bytearray)
    last_output_at: str = ""
    trap: bool = False
    """Set by an agent that handles SIGTERM itself: then `terminated` is set instead of the agent being ended."""
    terminated: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: bool = False
    lost: bool = False
    signal_code: int = 0
    task: "asyncio.Task[None] | None" = None
    kill_timer: asyncio.TimerHandle | None = None

    def write(self, text: str | bytes) -> None:
        """What a process writes to stdout or stderr."""
        self.output += text.encode() if isinstance(text, str) else text
        self.last_output_at = to_text(self.clock())

    def signal(self, code: int) -> None:
        if self.task is None or self.task.done():
            return
        if code == SIGTERMED and self.trap:
            self.terminated.set()
            return
        self.signal_code = code
        self.task.cancel()


Agent = Callable[[FakeRun], Awaitable[int]]


async def idle_agent(run: FakeRun) -> int:
    """Does nothing until it is stopped."""
    await asyncio.Event().wait()
    return 0


class FakeEngine:
    """The far side. Make it inside a running loop."""

    def __init__(self, agent: Agent = idle_agent, *, clock: Clock = utc_now) -> None:
        self.agent = agent
        self.clock = clock
        self.attempts: dict[str, FakeRun] = {}
        self.runs: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self._faults: dict[str, deque[tuple[Exception, bool]]] = defaultdict(deque)

    def fail(self, method: str, error: Exception, *, ran: bool = False) -> None:
        """The next call of `method` raises `error`: before it has done anything, or (`ran`) after all of it."""
        self._faults[method].append((error, ran))

    def fault(self, method: str, attempt_id: str) -> Exception | None:
        """Raises a fault that comes before, answers one that comes after."""
        self.calls.append((method, attempt_id))
        if not self._faults[method]:
            return None
        error, ran = self._faults[method].popleft()
        if not ran:
            raise error
        return error

    def lose(self, attempt_id: str) -> None:
        """Its shim and its agent die at once, and nobody records it."""
        run = self.attempts[attempt_id]
        run.lost = True
        run.signal(SIGKILLED)

    def kill(self, attempt_id: str) -> None:
        """SIGKILL to the agent, by somebody else."""
        self.attempts[attempt_id].signal(SIGKILLED)

    @property
    def running(self) -> list[str]:
        """Attempts that are alive."""
        return [name for name, run in self.attempts.items() if run.seen.alive]

    async def close(self) -> None:
        """Ends everything."""
        for run in self.attempts.values():
            run.signal(SIGKILLED)
        await asyncio.gather(*(run.task for run in self.attempts.values() if run.task is not None))

    def begin(self, run: FakeRun) -> None:
        """Runs the agent, once."""
        now = to_text(self.clock())
        run.seen = replace(run.seen, state=RunState.RUNNING, started_at=now)
        run.last_output_at = now
        self.runs.append(run.spec.attempt_id)
        run.task = asyncio.get_running_loop().create_task(self._live(run))

    async def _live(self, run: FakeRun) -> None:
        reason = EndReason.NONE
        try:
            code = await self.agent(run)
        except asyncio.CancelledError:
            code = run.signal_code
        except CommandMissing as error:
            run.write(f"{error}\n")
            code, reason = NO_COMMAND, EndReason.START_FAILED
        except Exception as error:
            run.write(f"{type(error).__name__}: {error}\n")
            code = 1
        if run.kill_timer is not None:
            run.kill_timer.cancel()
        if run.lost:
            run.seen = replace(run.seen, state=RunState.LOST)
        else:
            reason = EndReason.STOPPED if run.stopped else reason
            ended = to_text(self.clock())
            run.seen = replace(run.seen, state=RunState.EXITED, exit_code=code, ended_at=ended, reason=reason)
        run.over.set()


class FakeRuntime:
    """A dispatcher's view of the engine. isolation: what it claims; NONE refuses all but the built-in agent."""

    def __init__(
        self, engine: FakeEngine, *, isolation: Isolation = Isolation.CONTAINER, name: str = "process"
    ) -> None:
        self.engine = engine
        self._isolation = isolation
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def isolation(self) -> Isolation:
        return self._isolation

    async def open(self) -> None:
        self.engine.fault("open", "")

    async def close(self) -> None:
        pass

    def has(self, attempt_id: str) -> bool:
        return attempt_id in self.engine.attempts

    async def create(self, spec: AttemptSpec) -> Observed:
        after = self.engine.fault("create", spec.attempt_id)
        if self._isolation is Isolation.NONE and not spec.group.builtin:
            raise denied(
                "NO_SANDBOX", "no sandbox works here, so only the built-in reference agents run", "install bubblewrap"
            )
        if spec.attempt_id not in self.engine.attempts:
            seen = Observed(spec.attempt_id, RunState.CREATED)
            self.engine.attempts[spec.attempt_id] = FakeRun(spec, self.engine.clock, seen)
        if after is not None:
            raise after
        return await self.inspect(spec.attempt_id)

    async def start(self, attempt_id: str) -> Observed:
        after = self.engine.fault("start", attempt_id)
        run = self.engine.attempts.get(attempt_id)
        if run is None:
            raise not_found("attempt", attempt_id, "attempt_id", "create it first")
        if run.seen.state is RunState.CREATED:
            if not run.spec.mailbox.is_dir():
                raise NanoclawError(Kind.PRECONDITION, "NO_MAILBOX", f"{run.spec.mailbox} is not there")
            self.engine.begin(run)
            await asyncio.sleep(0)  # a task that is cancelled before its first step would never reach its `except`
        if after is not None:
            raise after
        return run.seen

    async def inspect(self, attempt_id: str) -> Observed:
        run = self.engine.attempts.get(attempt_id)
        return Observed(attempt_id, RunState.ABSENT) if run is None else run.seen

    async def wait(self, attempt_id: str) -> Observed:
        after = self.engine.fault("wait", attempt_id)
        run = self.engine.attempts.get(attempt_id)
        if run is not None and run.seen.alive:
            await run.over.wait()
        if after is not None:
            raise after
        return await self.inspect(attempt_id)

    async def stop(self, attempt_id: str, grace: float) -> Observed:
        after = self.engine.fault("stop", attempt_id)
        run = self.engine.attempts.get(attempt_id)
        if run is not None and run.seen.state is RunState.CREATED:
            ended = to_text(self.engine.clock())
            run.seen = replace(
                run.seen, state=RunState.EXITED, exit_code=SIGTERMED, ended_at=ended, reason=EndReason.STOPPED
            )
            run.over.set()
        elif run is not None and run.seen.alive:
            run.stopped = True
            run.signal(SIGTERMED if grace > 0 else SIGKILLED)
            if run.kill_timer is not None:
                run.kill_timer.cancel()
            run.kill_timer = asyncio.get_running_loop().call_later(grace, run.signal, SIGKILLED)
            await run.over.wait()
        if after is not None:
            raise after
        return await self.inspect(attempt_id)

    async def last_lines(self, attempt_id: str) -> str:
        run = self.engine.attempts.get(attempt_id)
        return "" if run is None else tail_lines(bytes(run.output))

    async def last_output_at(self, attempt_id: str) -> str:
        run = self.engine.attempts.get(attempt_id)
        return "" if run is None else run.last_output_at

    async def remove(self, attempt_id: str) -> None:
        after = self.engine.fault("remove", attempt_id)
        run = self.engine.attempts.get(attempt_id)
        if run is not None and run.seen.alive:
            raise NanoclawError(Kind.PRECONDITION, "ATTEMPT_ALIVE", f"{attempt_id} runs; stop it first")
        self.engine.attempts.pop(attempt_id, None)
        if after is not None:
            raise after

    async def list(self) -> list[Observed]:
        self.engine.fault("list", "")
        return [run.seen for run in self.engine.attempts.values()]
