"""`nanoclaw up` and `stop`: the four services as one supervised group of processes on this machine."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nanoclaw_cli import desired, given_environ
from nanoclaw_cli.invocation import command, current, pasted
from nanoclaw_cli.output import console, say, say_json, say_line
from nanoclaw_cli.processes import signal_process, wait_until_gone
from nanoclaw_cli.services import SERVICES, Service
from nanoclaw_cli.supervisor import START_SECONDS, STOP_GRACE_SECONDS, Supervisor, last_line, read_state
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_telemetry import logs

app = typer.Typer()


@command(app)
async def up(
    detach: Annotated[bool, typer.Option("--detach", help="Leave them running in the background.")] = False,
    ports: Annotated[
        bool, typer.Option("--ports/--no-ports", help="Listen on loopback ports 50051-50054, too.")
    ] = True,
    port: Annotated[
        int,
        typer.Option(
            help="The first of those four ports: governance's, then broker's, dispatcher's, gateway's.",
            min=1,
            max=65532,
        ),
    ] = SERVICES[0].port,
) -> None:
    """Starts the services, and restarts one that crashes, until Ctrl-C or `nanoclaw stop`."""
    home, first_port = current().home, port if ports else 0
    if detach:
        _detach(home, first_port)
        return
    desired.want(home, desired.RUNNING)
    progress = _Progress()
    supervisor = Supervisor(home, [sys.executable], given_environ(), first_port=first_port, notice=progress.notice)
    with _own_log(home), progress.view(), _signals() as stopping:
        async with supervisor.running():
            progress.ready(home, first_port)
            await asyncio.Event().wait()
    if stopping:
        desired.want(home, desired.STOPPED)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM cancel what runs inside, while it starts too; answers a list of those that came."""
    came: list[int] = []
    task = asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        if not came:  # a second one must not interrupt the stopping
            task.cancel()
        came.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        yield came
    except asyncio.CancelledError:
        if not came:
            raise
        task.uncancel()


@command(app)
async def stop() -> None:
    """Stops the services: SIGTERM, a grace, SIGKILL. They stay stopped until `nanoclaw up`."""
    home = current().home
    unsaid: OSError | None = None
    try:
        desired.want(home, desired.STOPPED)
    except OSError as error:  # a full disk: it must be possible to stop all the same
        unsaid = error
    running = read_state(home)
    if "supervisor" in running:
        _end(running["supervisor"], STOP_GRACE_SECONDS * len(SERVICES) + 5)
    for service in reversed(SERVICES):  # what a killed supervisor left behind
        if service.name in running:
            _end(running[service.name], STOP_GRACE_SECONDS)
    if current().as_json:
        say_json({"stopped": sorted(set(running) - {"supervisor"})})
    else:
        say("stopped" if running else f"nothing is running for {home}")
    if unsaid is not None:
        raise unsaid


def _end(process: tuple[int, str], grace: float) -> None:
    signal_process(*process, signal.SIGTERM)
    if not wait_until_gone(*process, grace):
        signal_process(*process, signal.SIGKILL)
        wait_until_gone(*process, STOP_GRACE_SECONDS)


def _detach(home: Path, first_port: int) -> None:
    """Starts ourselves in a session of our own, and waits for its first line: it serves, or why not."""
    log = home / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--home", str(home), "up", "--json", *(("--port", str(first_port)) if first_port else ("--no-ports",))]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "nanoclaw_cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=given_environ(),
        )
    assert process.stdout is not None
    with process.stdout, console().status("starting the services") if not current().as_json else _nothing():
        line = process.stdout.readline()
    answer = _json(line)
    if "services" not in answer:
        process.wait(START_SECONDS)
        raise _refusal(answer.get("error"), log)
    if current().as_json:
        say_line(answer)
    else:
        say(f"serving; stop it with `{pasted(home)} stop`\n{_whereabouts(home, first_port)}")


def _refusal(error: Any, log: Path) -> NanoclawError:
    if isinstance(error, dict):
        return NanoclawError(Kind(error["kind"]), error["reason"], error["message"], next_step=error["next_step"])
    return NanoclawError(
        Kind.UNAVAILABLE,
        "DID_NOT_START",
        f"the services did not start: {last_line(log) or 'they said nothing'}",
        next_step=f"read {log}",
    )


def _json(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _own_log(home: Path) -> Iterator[None]:
    """Our own log lines go to a file: the terminal shows the progress."""
    (home / "logs").mkdir(parents=True, exist_ok=True, mode=0o750)
    with (home / "logs" / "supervisor.log").open("a") as out, contextlib.redirect_stderr(out):
        logs.configure("supervisor", logs.LEVELS["INFO"])
        yield


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


def _whereabouts(home: Path, first_port: int) -> str:
    where = ", ".join(f"{service.name} {port}" for service in SERVICES for port in _ports(service, first_port))
    return "\n".join(
        line
        for line in (
            f"data     {home}",
            f"sockets  {home}/run/*.sock",
            f"ports    {where}" if where else "",
            f"token    {home}/secrets/operators/founder.token",
            f"logs     {home}/logs/*.log",
        )
        if line
    )


def _ports(service: Service, first_port: int) -> list[str]:
    """Where it listens besides its socket: what the environment says goes before the ports of `up`."""
    given = os.environ.get(f"{service.prefix}LISTEN")
    if given is None:
        return [f"127.0.0.1:{service.port_from(first_port)}"] if first_port else []
    return [part.strip() for part in given.split(",") if part.strip() and not part.strip().startswith("unix:")]


class _Progress:
    """What becomes of each service: a live table, or lines where there is no terminal."""

    def __init__(self) -> None:
        self._states = {service.name: "" for service in SERVICES}
        self._quiet = current().as_json
        self._live: Live | None = None
        self._console = console()

    @contextlib.contextmanager
    def view(self) -> Iterator[None]:
        """Shows it while the context lasts."""
        if self._quiet or not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=8) as self._live:
            yield

    def notice(self, name: str, what: str) -> None:
        """The supervisor's word."""
        self._states[name] = what
        if self._live is None and not self._quiet:
            self._console.print(f"{name}: {what}", markup=False)

    def ready(self, home: Path, first_port: int) -> None:
        """They all serve."""
        if self._quiet:
            services = {service.name: service.target(home) for service in SERVICES}
            say_line({"services": services, "ports": {one.name: _ports(one, first_port) for one in SERVICES}})
        else:
            self._console.print(f"{_whereabouts(home, first_port)}\nCtrl-C stops it", markup=False)

    def _render(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, what in self._states.items():
            style = "green" if what == "serving" else "red" if "crashed" in what else "yellow"
            table.add_row(Text("●", style=style), name, Text(what or "waiting", style=style))
        return table
