"""Places where attempts run: the fake, processes with and without a sandbox, containers."""

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import engines
import fake_runtime
import pytest
import pytest_asyncio

from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.container_site import Site
from nanoclaw_dispatcher.docker_runtime import DockerRuntime
from nanoclaw_dispatcher.groups import Group, Role
from nanoclaw_dispatcher.process_runtime import ProcessRuntime
from nanoclaw_dispatcher.runtime import Isolation, Observed, Runtime

DEADLINE = 20.0

# What an agent does, by name, for a POSIX shell; each leaves a line in its group's folder every time that it runs.
_LOOP = "echo ready; while :; do sleep 0.02; done"
PROGRAMS = {
    "exit": 'exit "$1"',
    "say": 'printf "%s" "$1"',
    "read": "cat",
    "wait": _LOOP,
    "stubborn": f"trap 'echo heard' TERM; {_LOOP}",
    "polite": f"trap 'echo bye; exit 5' TERM; {_LOOP}",
    "flood": 'head -c "$1" /dev/zero | tr "\\0" x; echo; echo the end',
    "die": 'kill -9 "$$"',
    "tick": "echo ready; while :; do sleep 0.02; echo tick; done",
    "fall silent": "echo ready; exec sleep 60",
}


class Place(Protocol):
    """Where attempts run, seen by a test. runtime: the present dispatcher's."""

    runtime: Runtime
    home: Path

    async def successor(self) -> Runtime:
        """The runtime of another dispatcher over the same place."""

    def command(self, program: str, *args: str) -> tuple[str, ...]:
        """The command line of a program of PROGRAMS, or of one that does not exist."""

    def runs(self, attempt_id: str) -> int:
        """How often an agent really ran."""

    async def lose(self, attempt_id: str) -> None:
        """Makes what would record the end disappear."""


class _Place:
    def __init__(self, home: Path) -> None:
        self.home = home

    async def until(self, true: Callable[[], Awaitable[Any]]) -> Any:
        """The first true answer; fails after a while."""
        deadline = time.monotonic() + DEADLINE
        while not (answer := await true()):
            assert time.monotonic() < deadline, "it never came true"
            await asyncio.sleep(0.005)
        return answer

    def spec(self, attempt_id: str, program: str, *args: str, **options: Any) -> AttemptSpec:
        """An attempt of the group `developer` with its mailbox; `options` are the group's."""
        mailbox = self.home / "attempts" / attempt_id / "ipc"
        mailbox.mkdir(parents=True, exist_ok=True)
        group = Group("developer", Role.EXECUTOR, **{"command": self.command(program, *args), **options})
        return AttemptSpec(attempt_id, f"{attempt_id}:READY->DOING:v3", "task-1", group, mailbox, '{"prompt": "hi"}\n')

    async def started(self, attempt_id: str, program: str, *args: str, **options: Any) -> Observed:
        """Created and started; one that says `ready` has said so."""
        await self.runtime.create(self.spec(attempt_id, program, *args, **options))
        seen = await self.runtime.start(attempt_id)
        if "ready" in PROGRAMS.get(program, ""):
            await self.until(lambda: self.said(attempt_id, "ready"))
        return seen

    async def said(self, attempt_id: str, word: str) -> bool:
        return word in await self.runtime.last_lines(attempt_id)


class FakePlace(_Place):
    """The tests' own."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.engine = fake_runtime.FakeEngine(self._agent)
        self.runtime = fake_runtime.FakeRuntime(self.engine)

    async def open(self) -> None:
        pass

    async def successor(self) -> Runtime:
        return fake_runtime.FakeRuntime(self.engine)

    async def close(self) -> None:
        await self.engine.close()

    def command(self, program: str, *args: str) -> tuple[str, ...]:
        return (program, *args)

    def runs(self, attempt_id: str) -> int:
        return self.engine.runs.count(attempt_id)

    async def lose(self, attempt_id: str) -> None:
        self.engine.lose(attempt_id)

    async def _agent(self, run: "fake_runtime.FakeRun") -> int:
        program, *args = run.spec.group.command
        if program not in PROGRAMS:
            raise fake_runtime.CommandMissing(f"{program}: not found")
        if program == "exit":
            return int(args[0])
        if program == "say":
            run.write(args[0])
        elif program == "read":
            run.write(run.spec.stdin)
        elif program == "flood":
            run.write("x" * int(args[0]) + "\nthe end\n")
        elif program == "die":
            self.engine.kill(run.spec.attempt_id)
            await asyncio.sleep(DEADLINE)
        else:
            return await self._stay(run, program)
        return 0

    async def _stay(self, run: "fake_runtime.FakeRun", program: str) -> int:
        run.trap = program in ("stubborn", "polite")
        run.write("ready\n")
        while not (program == "polite" and run.terminated.is_set()):
            await asyncio.sleep(0.01)
            if program == "tick":
                run.write("tick\n")
            if run.terminated.is_set():
                run.write("heard\n")
        run.write("bye\n")
        return 5


class ProcessPlace(_Place):
    """Real processes."""

    def __init__(self, home: Path, sandboxed: bool) -> None:
        super().__init__(home)
        self.sandboxed = sandboxed
        self._opened: list[ProcessRuntime] = []

    async def open(self) -> None:
        self.runtime = await self.successor()
        wanted = Isolation.BUBBLEWRAP if self.sandboxed else Isolation.UNSAFE
        if self.runtime.isolation is not wanted:
            why = self.runtime.no_sandbox_because
            bare = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
            if shutil.which("bwrap") and subprocess.run(bare, capture_output=True).returncode == 0:
                pytest.fail(f"this machine allows sandboxes, but not ours: {why}")
            pytest.skip(f"no sandbox works here: {why}")

    async def successor(self) -> ProcessRuntime:
        runtime = ProcessRuntime(self.home, use_sandbox=self.sandboxed, allow_unsandboxed=not self.sandboxed)
        await runtime.open()
        self._opened.append(runtime)
        return runtime

    async def close(self) -> None:
        for seen in await self.runtime.list():
            await self.runtime.stop(seen.attempt_id, 0)
        for runtime in self._opened:
            await runtime.close()

    def command(self, program: str, *args: str) -> tuple[str, ...]:
        if program not in PROGRAMS:
            return (program, *args)
        mark = 'echo run >> "$NANOCLAW_GROUP_DIR/$NANOCLAW_ATTEMPT.runs"; '
        return ("/bin/sh", "-c", mark + PROGRAMS[program], "sh", *args)

    def runs(self, attempt_id: str) -> int:
        marks = self.home / "groups" / "developer" / f"{attempt_id}.runs"
        return len(marks.read_text().splitlines()) if marks.exists() else 0

    def shim(self, attempt_id: str) -> int:
        """The pid of the attempt's shim."""
        from nanoclaw_dispatcher import attempt_files

        started = attempt_files.read(str(self.home / "attempts" / attempt_id / "run"), attempt_files.STARTED)
        assert started is not None
        return int(started["pid"])

    def family(self, attempt_id: str) -> list[int]:
        """The living processes of the attempt."""
        from nanoclaw_dispatcher import attempt_files

        spec = attempt_files.read(str(self.home / "attempts" / attempt_id / "run"), attempt_files.SPEC)
        assert spec is not None
        return attempt_files.marked(spec["run"])

    async def lose(self, attempt_id: str) -> None:
        os.kill(self.shim(attempt_id), signal.SIGKILL)


class DockerPlace(_Place):
    """Real containers. image: what they run in."""

    def __init__(self, home: Path, host: str, image: str, *, seconds: int = 30, prefix: str = "") -> None:
        super().__init__(home)
        self.host = host
        self.seconds = seconds
        self.uid = os.getuid() or 10002
        prefix = prefix or f"{home.name}-"  # several tests share an engine
        self.site = Site(home, os.path.realpath(home), prefix, image, self.uid, host.removeprefix("unix://"))
        self._opened: list[DockerRuntime] = []

    async def open(self) -> None:
        self.runtime = await self.successor()

    async def successor(self) -> DockerRuntime:
        runtime = DockerRuntime(self.site, self.host, seconds=self.seconds)
        await runtime.open()
        self._opened.append(runtime)
        return runtime

    async def close(self) -> None:
        last = await self.successor()
        for seen in await last.list():
            await last.stop(seen.attempt_id, 0)
            await last.remove(seen.attempt_id)
        await self.release()

    async def release(self) -> None:
        """Lets go of an engine that can't be asked any more."""
        for runtime in self._opened:
            await runtime.close()
        with warnings.catch_warnings():  # the SDK leaves the socket of a refused connection to the garbage collector
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def command(self, program: str, *args: str) -> tuple[str, ...]:
        return ProcessPlace.command(self, program, *args)  # type: ignore[arg-type]

    def runs(self, attempt_id: str) -> int:
        return ProcessPlace.runs(self, attempt_id)  # type: ignore[arg-type]

    def name(self, attempt_id: str) -> str:
        """The container's."""
        return self.site.prefix + attempt_id

    async def lose(self, attempt_id: str) -> None:
        with engines.client(self.host) as api:
            await asyncio.to_thread(api.remove_container, self.name(attempt_id), force=True)


@pytest.fixture
def home() -> Iterator[Path]:
    """A NANOCLAW_HOME with a short path."""
    path = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def opened(place: Any) -> AsyncIterator[Any]:
    """The place, closed in the end whatever happens."""
    try:
        await place.open()
        yield place
    finally:
        await place.close()


@pytest_asyncio.fixture(params=["fake", "bubblewrap", "unsandboxed", pytest.param("docker", marks=pytest.mark.docker)])
async def place(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Any]:
    """Every place in turn."""
    if request.param == "fake":
        place: Any = FakePlace(home)
    elif request.param == "docker":
        place = DockerPlace(home, engines.require_engine(), engines.shell_image())
    else:
        place = ProcessPlace(home, request.param == "bubblewrap")
    async with opened(place):
        yield place


@pytest_asyncio.fixture(params=["bubblewrap", "unsandboxed"])
async def processes(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[ProcessPlace]:
    """Real processes, with a sandbox and without."""
    async with opened(ProcessPlace(home, request.param == "bubblewrap")) as place:
        yield place


@pytest_asyncio.fixture
async def sandboxed(home: Path) -> AsyncIterator[ProcessPlace]:
    """Real processes in a sandbox."""
    async with opened(ProcessPlace(home, True)) as place:
        yield place


@pytest.fixture
def process_place() -> type[ProcessPlace]:
    """For a test that opens its own runtime."""
    return ProcessPlace


@pytest_asyncio.fixture
async def containers(home: Path) -> AsyncIterator[DockerPlace]:
    """Real containers that have a shell."""
    async with opened(DockerPlace(home, engines.require_engine(), engines.shell_image())) as place:
        yield place


@pytest_asyncio.fixture
async def python_containers(home: Path) -> AsyncIterator[DockerPlace]:
    """Real containers that have Python and the agent kit."""
    async with opened(DockerPlace(home, engines.require_engine(), engines.python_image())) as place:
        yield place


@pytest.fixture
def docker_place() -> type[DockerPlace]:
    """For a test that chooses its engine, or its name."""
    return DockerPlace
