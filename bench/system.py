"""The system under measurement: the four services as processes over a home of their own, and the echo server."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from nanoclaw_cli.services import SERVICES, Service
from nanoclaw_cli.supervisor import Supervisor, read_state

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}


@dataclass
class System:
    """A running system: its home, and bare channels with the operator's header, as a foreign client would make them."""

    home: Path
    supervisor: Supervisor

    def channel(self, service: str) -> grpc.aio.Channel:
        """A bare channel to a service."""
        return grpc.aio.insecure_channel(f"unix:{self.home / 'run' / f'{service}.sock'}")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The operator's credential."""
        token = (self.home / "secrets" / "operators" / "founder.token").read_text().strip()
        return (("authorization", f"Bearer {token}"),)

    def pid(self, service: str) -> int:
        """The process of a service."""
        return read_state(self.home)[service][0]


@asynccontextmanager
async def home() -> AsyncIterator[Path]:
    """A folder on the disk of the working tree's machine, removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="nc-bench-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def system(
    where: Path, environ: Mapping[str, str] | None = None, services: Sequence[Service] = SERVICES
) -> AsyncIterator[System]:
    """The services over `where`, serving; quiet logs, no exporter unless `environ` says so."""
    settings = {**CLEAN, "NANOCLAW_LOG_LEVEL": "ERROR", **(environ or {})}
    async with Supervisor(where, [sys.executable], settings, services=services).running() as supervisor:
        yield System(where, supervisor)


@asynccontextmanager
async def echo_server(where: Path) -> AsyncIterator[tuple[grpc.aio.Channel, int]]:
    """The baseline in a process of its own: a channel to it, and its pid."""
    address = f"unix:{where / 'echo.sock'}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.echo", address), stdout=asyncio.subprocess.PIPE, env=CLEAN
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel, process.pid
    finally:
        process.kill()
        await process.wait()
