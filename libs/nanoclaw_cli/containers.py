"""`nanoclaw containers`: waits until the containers of compose.yaml are healthy, with a live view; says where all is.

Compose and the engine are asked by their own commands; what they are is left to `deploy/compose`.
"""

import asyncio
import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nanoclaw_cli.commands import output_of
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import console, say, say_json
from nanoclaw_cli.services import SERVICES
from nanoclaw_core.errors import Kind, NanoclawError

PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.5
ENOUGH_RESTARTS = 5
"""So often one that is not ready has been started again while we look: it won't do better by itself."""
LABEL = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"
"""Says of a container that `compose run` started it: nobody waits for one to be healthy."""
PROBE = ("python3", "-m", "nanoclaw_cli.probe")

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Seen:
    """A container as the engine shows it. health: the engine's word, empty where nothing checks it."""

    id: str
    service: str
    status: str
    health: str = ""
    exit_code: int = 0
    restarts: int = 0
    error: str = ""

    @property
    def word(self) -> str:
        """For people."""
        if self.status != "running":
            return f"{self.status} ({self.error or f'exit {self.exit_code}, restarted {self.restarts} times'})"
        return self.health or "running"

    @property
    def ready(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.status == "running" and self.health in ("", "healthy")


def parse(inspected: str) -> list[Seen]:
    """What `docker inspect` says of what stays, by the order of starting and then by name."""
    order = {service.name: number for number, service in enumerate(SERVICES)}
    found = [_seen(one) for one in json.loads(inspected) if one["Config"]["Labels"].get(ONE_OFF, "False") == "False"]
    return sorted(found, key=lambda one: (order.get(one.service, len(order)), one.service))


def _seen(one: dict[str, Any]) -> Seen:
    state = one["State"]
    return Seen(
        id=one["Id"],
        service=one["Config"]["Labels"].get(LABEL, one["Name"].lstrip("/")),
        status=state["Status"],
        health=state.get("Health", {}).get("Status", ""),
        exit_code=state["ExitCode"],
        restarts=one["RestartCount"],
        error=state.get("Error", ""),
    )


@command(app)
async def containers(
    compose: Annotated[str, typer.Option(help="What runs compose.")] = "deploy/compose",
    seconds: Annotated[float, typer.Option(help="How long to wait.")] = PATIENCE_SECONDS,
) -> None:
    """Waits until all containers of the project are healthy; exit code 1, and the last words of one that is not."""
    words = shlex.split(compose)
    view = _View()
    began = time.monotonic()
    before: dict[str, int] = {}
    try:
        async with asyncio.timeout(seconds):
            with view.shown():
                while True:
                    view.seen = await _look(words)
                    view.print()
                    if view.seen and all(one.ready for one in view.seen):
                        break
                    ill = [one for one in view.seen if not one.ready]
                    lost = [
                        one for one in ill if one.restarts - before.setdefault(one.id, one.restarts) >= ENOUGH_RESTARTS
                    ]
                    if lost:
                        raise await _refusal(words, lost, time.monotonic() - began)
                    await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise await _refusal(words, view.seen, seconds) from None
    if current().as_json:
        say_json({one.service: one.word for one in view.seen})
    else:
        say(_whereabouts(view.seen))


async def _look(compose: list[str]) -> list[Seen]:
    # All, for version 2 of compose leaves out by itself what has stopped.
    ids = (await output_of(*compose, "ps", "--all", "--quiet")).split()
    seen = parse(await output_of("docker", "inspect", *ids)) if ids else []
    # The engine asks every fifteen seconds; whoever waits asks the same question now.
    return list(await asyncio.gather(*(_asked(one) for one in seen)))


async def _asked(one: Seen) -> Seen:
    if one.status != "running" or one.health in ("", "healthy"):
        return one
    try:
        await output_of("docker", "exec", one.id, *PROBE)
    except NanoclawError:
        return one
    return replace(one, health="healthy")


async def _refusal(compose: list[str], seen: list[Seen], seconds: float) -> NanoclawError:
    bad = next((one for one in seen if not one.ready), None)
    if bad is None:
        return NanoclawError(
            Kind.UNAVAILABLE, "NO_CONTAINERS", "no container of the project is there", next_step="start it: make up"
        )
    lines = (await output_of(*compose, "logs", "--no-color", "--tail", "1", bad.service)).strip().splitlines() or [""]
    return NanoclawError(
        Kind.UNAVAILABLE,
        "CONTAINER_NOT_HEALTHY",
        f"{bad.service} is {bad.word} after {seconds:.3g} s: {lines[-1][:500]}",
        next_step=f"read its log: {' '.join(compose)} logs {bad.service}",
    )


def _whereabouts(seen: list[Seen]) -> str:
    environ = os.environ
    ports = {one.name: environ.get(f"NANOCLAW_PORT_{one.name.upper()}", str(one.port)) for one in SERVICES}
    here = environ.get("NANOCLAW_BIND", "127.0.0.1")
    secrets = environ.get("NANOCLAW_SECRETS", str(Path("var/docker/secrets").absolute()))
    lines = [
        "ports    " + ", ".join(f"{name} {here}:{port}" for name, port in ports.items()),
        f"data     {environ.get('NANOCLAW_DATA', Path('var/docker/data').absolute())}, and the volume `store`",
        f"token    {secrets}/operators/founder.token",
        "command  deploy/nanoclaw status",
    ]
    if any(one.service == "jaeger" for one in seen):
        lines.append(f"traces   http://127.0.0.1:{environ.get('NANOCLAW_PORT_JAEGER', '16686')}")
    return "\n".join([*lines, "stop it with `make down`"])


class _View:
    """What becomes of each container: a live table, or a line for each change where there is no terminal."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._said: dict[str, str] = {}
        self._console = console()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """While the context lasts."""
        if current().as_json or not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=8):
            yield

    def print(self) -> None:
        """Says what has changed, where there is no live table."""
        if current().as_json or self._console.is_terminal:
            return
        for one in self.seen:
            if self._said.get(one.service) != one.word:
                self._said[one.service] = one.word
                self._console.print(f"{one.service}: {one.word}", markup=False)

    def _render(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        for one in self.seen:
            style = "green" if one.ready else "yellow" if one.status in ("running", "created") else "red"
            table.add_row(Text("●", style=style), one.service, Text(one.word, style=style))
        return table
