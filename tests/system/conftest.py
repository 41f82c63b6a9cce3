"""All four services as processes under the real supervisor, over a home of the test's own."""

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import engines
import pytest
from ports import free_ports

from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A NANOCLAW_HOME with a path short enough for unix sockets."""
    home = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp"))
    yield home
    if "KEEP_HOME" not in os.environ:  # to look at what a failed run left behind
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def environ() -> dict[str, str]:
    """The environment that services get: ours, without settings of a developer's shell."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}


@pytest.fixture
def contained(short_home: Path, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """Settings for agents in containers; afterwards none of this home is left."""
    engines.require_engine()
    label = f"nanoclaw.home={os.path.realpath(short_home)}"
    yield {
        **environ,
        "NANOCLAW_DISPATCHER_RUNTIME": "docker",
        "NANOCLAW_DISPATCHER_IMAGE": engines.python_image(),
        "NANOCLAW_DISPATCHER_DOCKER_PREFIX": f"{short_home.name}-",
        "NANOCLAW_DISPATCHER_SWEEP_SECONDS": "1",
        **({f"NANOCLAW_{name}_AGENT_UID": "10002" for name in ("GATEWAY", "BROKER")} if os.getuid() == 0 else {}),
    }
    with engines.client() as api:
        for one in api.containers(all=True, filters={"label": [label]}):
            api.remove_container(one["Id"], force=True)


@pytest.fixture
def ports(short_home: Path, environ: dict[str, str]) -> dict[str, int]:
    """A free loopback port for each service, also put into its LISTEN setting."""
    found = {service.name: port for service, port in zip(SERVICES, free_ports(len(SERVICES)), strict=True)}
    for service in SERVICES:
        environ[f"{service.prefix}LISTEN"] = f"{service.target(short_home)},127.0.0.1:{found[service.name]}"
    return found


@pytest.fixture
async def system(short_home: Path, environ: dict[str, str]) -> AsyncIterator[Supervisor]:
    """The four services, serving."""
    async with Supervisor(short_home, [sys.executable], environ).running() as supervisor:
        yield supervisor
