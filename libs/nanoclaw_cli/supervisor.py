"""Keeps the four services running as one group of processes on this machine: start, watch, restart, stop."""

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nanoclaw_cli.processes import is_process, process_start, signal_process
from nanoclaw_cli.services import SERVICES, Service
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import Tls, connect
from nanoclaw_rpc.process import NEXT_STEP

log = structlog.get_logger()

STOP_GRACE_SECONDS = 10.0
START_SECONDS = 30.0
STABLE_SECONDS = 60.0
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

Notice = Callable[[str, str], None]
"""Told of each change: a service's name and what became of it: starting, serving, crashed, stopped."""


@dataclass
class Supervisor:
    """The services under one NANOCLAW_HOME.

    command: what runs a Python module, `[interpreter]`. environ: what each service gets, to which home and, with
    `first_port`, a loopback address each are added. backoff: seconds to wait before a crashed service is started again,
    the next one for each crash in a row. services: in the order of their start. prepare: entered once the home is ours,
    before the first service starts, and left after the last has stopped.
    Raises ALREADY_RUNNING where another supervisor holds the home.
    """

    home: Path
    command: list[str]
    environ: Mapping[str, str]
    first_port: int = 0
    notice: Notice = lambda name, what: None
    backoff: Sequence[float] = BACKOFF_SECONDS
    services: Sequence[Service] = SERVICES
    prepare: Callable[[], AbstractContextManager[None]] = nullcontext
    _processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _watches: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    _logged: dict[str, int] = field(default_factory=dict)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Supervisor"]:
        """The services, started and serving; stopped on the way out, whatever happens inside."""
        for folder in ("run", "logs"):
            (self.home / folder).mkdir(parents=True, exist_ok=True, mode=0o750)
        with (self.home / "run" / "supervisor.lock").open("w") as lock:
            _hold(lock.fileno(), self.home)
            stop_orphans(self.home)
            with self.prepare():
                try:
                    for service in self.services:
                        await self._start(service)
                    await asyncio.gather(*(self._require_serving(service) for service in self.services))
                    yield self
                finally:
                    await self.stop()

    async def _start(self, service: Service) -> None:
        self.notice(service.name, "starting")
        environ = {**self.environ, "NANOCLAW_HOME": str(self.home)}
        if self.first_port:
            port = service.port_from(self.first_port)
            environ.setdefault(f"{service.prefix}LISTEN", f"{service.target(self.home)},127.0.0.1:{port}")
        with service.log(self.home).open("ab") as output:
            self._logged[service.name] = output.tell()
            process = await asyncio.create_subprocess_exec(
                *self.command,
                "-m",
                service.module,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
            )
        self._processes[service.name] = process
        self._record()
        if service.name not in self._watches:
            self._watches[service.name] = asyncio.create_task(self._watch(service))

    async def _watch(self, service: Service) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            code = await self._processes[service.name].wait()
            failures = 0 if loop.time() - began > STABLE_SECONDS else failures + 1
            pause = self.backoff[min(failures, len(self.backoff)) - 1] if failures else 0.0
            self.notice(service.name, f"crashed (exit {code}), again in {pause:g} s")
            log.warning("service_crashed", service=service.name, exit_code=code, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            self.restarts[service.name] = self.restarts.get(service.name, 0) + 1
            try:
                await self._start(service)
            except OSError as error:  # a full disk, no room for a process: the next round tries again
                self.notice(service.name, f"can't be started: {error.strerror}")
                log.error("service_not_started", service=service.name, message=str(error))
                continue
            if not await self._serves(service) and self._processes[service.name].returncode is None:
                self._processes[service.name].kill()  # it hangs; the next round starts it again

    async def _require_serving(self, service: Service) -> None:
        if not await self._serves(service):
            why, _, step = self._why(service).partition(NEXT_STEP)
            read = f"read {service.log(self.home)}"
            raise NanoclawError(
                Kind.UNAVAILABLE,
                "SERVICE_DID_NOT_START",
                f"{service.name} does not serve: {why.removeprefix(f'{service.name}: ')}",
                next_step=f"{step}; or {read}" if step else read,
            )

    def _why(self, service: Service) -> str:
        """What it said last, in this life; else where nobody answered."""
        said = last_line(service.log(self.home), self._logged[service.name])
        return said or f"nothing answers on {service.socket(self.home)} after {START_SECONDS:g} s"

    async def _serves(self, service: Service) -> bool:
        """Waits until it serves, or ends, or 30 s are over."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await is_serving(service.target(self.home)):
            ended = self._processes[service.name].returncode is not None
            if ended or asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.03)
        self.notice(service.name, "serving")
        return True

    def _record(self) -> None:
        pids = {name: process.pid for name, process in self._processes.items()}
        write_state(self.home, {"supervisor": os.getpid(), **pids})

    async def stop(self) -> None:
        """SIGTERM in reverse order, a grace of 10 s each, then SIGKILL."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        self._watches.clear()
        for service in reversed(self.services):
            process = self._processes.pop(service.name, None)
            if process is None or process.returncode is not None:
                continue
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_GRACE_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
            self.notice(service.name, "stopped")
        _state_file(self.home).unlink(missing_ok=True)


async def is_serving(target: str, timeout: float = 1.0, *, tls: Tls | None = None, peer: str = "") -> bool:
    """Whether grpc.health.v1 at the gRPC target says SERVING within `timeout` seconds.

    Needs no credential, but with TLS a certificate, and the name of the service that must answer.
    """
    if target.startswith("unix:") and not Path(target.removeprefix("unix:")).exists():
        return False
    async with connect(target, attempts=1, tls=tls, peer=peer) as channel:
        try:
            check: Any = health_pb2_grpc.HealthStub(channel)  # its published types lack the methods
            answer = await check.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except NanoclawError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def last_line(path: Path, after: int = 0) -> str:
    """The last line of a log beyond so many bytes, for an error message; empty if there is none."""
    try:
        lines = path.read_bytes()[after:].decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return lines[-1][:500] if lines else ""


def read_state(home: Path) -> dict[str, tuple[int, str]]:
    """Who runs for the home: name → (pid, start time as /proc gives it); those that are gone are left out."""
    try:
        recorded = json.loads(_state_file(home).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    found = {name: (int(entry["pid"]), str(entry["start"])) for name, entry in recorded.items()}
    return {name: who for name, who in found.items() if is_process(*who)}


def write_state(home: Path, pids: Mapping[str, int]) -> None:
    """Records who runs, with each start time, so that a reused pid is never taken for ours."""
    entries = {name: {"pid": pid, "start": process_start(pid)} for name, pid in pids.items()}
    temporary = _state_file(home).with_suffix(".tmp")
    temporary.write_text(json.dumps(entries))
    temporary.replace(_state_file(home))


def stop_orphans(home: Path) -> None:
    """Ends services that a killed supervisor left behind: SIGKILL is safe, every service recovers from it."""
    for name, (pid, start) in read_state(home).items():
        if name != "supervisor":
            signal_process(pid, start, signal.SIGKILL)
    _state_file(home).unlink(missing_ok=True)


def _state_file(home: Path) -> Path:
    return home / "run" / "supervisor.json"


def _hold(lock: int, home: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise NanoclawError(
            Kind.PRECONDITION,
            "ALREADY_RUNNING",
            f"the services of {home} are running already",
            next_step="use `nanoclaw status`, or `nanoclaw stop`, or set NANOCLAW_HOME to another folder",
        ) from None
