"""All of compose.yaml on an engine: started, hurt, asked and stopped as a person or a power failure would."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import engines
import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("governance", "broker", "gateway", "dispatcher")
IMAGES = ("nanoclaw-os:latest", "nanoclaw-agent:latest")
JAEGER = "nanoclaw-jaeger:local"
"""As deploy/jaeger-image makes it."""
AGENT = "/opt/sweep/sweep_agent.py"


def compose(environ: dict[str, str], *words: str, seconds: float = 240) -> str:
    """Runs `deploy/compose`; what it writes to stdout."""
    ran = subprocess.run(
        ["deploy/compose", *words], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=seconds
    )
    assert ran.returncode == 0, f"compose {' '.join(words)}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
    return ran.stdout


def composes() -> list[str]:
    """Those of the two that are here, as NANOCLAW_COMPOSE names them."""
    plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True)
    found = ["docker compose"] if plugin and plugin.returncode == 0 else []
    return found + (["docker-compose"] if shutil.which("docker-compose") else [])


@contextmanager
def built() -> Iterator[None]:
    """Both images from this tree, on the engine that is here; on another base where the environment names one. Another
    run, maybe of another tree, that gives their names to its own waits until the context ends."""
    engines.require_engine()
    if not composes():
        pytest.skip("neither `docker compose` nor docker-compose is here")
    environ = dict(os.environ)
    with engines.client() as api:
        for name, tag in (("BASE_IMAGE", "nanoclaw-base:bookworm"), ("BUILD_IMAGE", "nanoclaw-build:bookworm")):
            if api.images(tag):  # made by deploy/base-image
                environ.setdefault(name, tag)
        base = environ.get("BASE_IMAGE", "python:3.13-slim")
        if not api.images(base):
            pulled = subprocess.run(["docker", "pull", "--quiet", base], capture_output=True, text=True)
            if pulled.returncode != 0:
                pytest.skip(f"{base} can't be pulled, and deploy/base-image has made none: {pulled.stderr.strip()}")
    with (Path(tempfile.gettempdir()) / f"nanoclaw-images-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compose(environ, "build", "--quiet", "setup", "agent", seconds=550)
        yield


class Stack:
    """The project on the engine at `host`, whose published ports are at `address`."""

    def __init__(self, folder: Path, host: str, address: str, *, jaeger: bool = False) -> None:
        self.folder, self.host, self.address, self.jaeger = folder, host, address, jaeger
        self.api = docker.APIClient(host, version="auto", timeout=60)
        self.data, self.secrets, self.effects = folder / "data", folder / "secrets", folder / "effects.log"
        self.project = f"nctest{os.getpid()}"
        known = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "COMPOSE_"))}
        self.environ = {
            **known,
            "DOCKER_HOST": host,
            "DOCKER_SOCKET": host.removeprefix("unix://"),
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": "compose.yaml:tests/docker/compose.failures.yaml",
            "NANOCLAW_BIND": address,
            "NANOCLAW_BIND_JAEGER": address,
            "NANOCLAW_DATA": str(self.data),
            "NANOCLAW_SECRETS": str(self.secrets),
            "NANOCLAW_JAEGER": str(int(jaeger)),
            "JAEGER_IMAGE": JAEGER,
            "TEST_PLUGINS": str(folder / "plugins"),
            "TEST_EFFECTS": str(self.effects),
        }

    def start(self) -> None:
        """Brings it up as `make up` does, with the agent that shows if two ever work on a task at once."""
        folder = self.folder / "agent"
        folder.mkdir(parents=True)
        support = ROOT / "tests" / "support"
        shutil.copytree(support / "plugins", self.folder / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(support / "sweep_agent.py", folder / "sweep_agent.py")
        self.effects.touch()
        os.chown(self.effects, 10001, 10001)
        for path in (self.data / "config", self.secrets):
            path.mkdir(parents=True)
        mount = f'mounts = [{{ source = "{folder}", target = "{Path(AGENT).parent}", writable = false }}]'
        (self.data / "config" / "groups.toml").write_text(
            '[defaults]\nruntime = "docker"\nwip_limit = 100\ncpu = 2.0\n'
            f'command = ["python3", "{AGENT}"]\n{mount}\n'
            + "".join(
                f'[groups.{name}]\nrole = "{role}"\n'
                for name, role in (("main", "main"), ("developer", "executor"), ("security", "approver"))
            )
        )
        self.compose("run", "--rm", "setup")
        self.compose("up", "-d")
        self.wait_until_healthy()

    def compose(self, *words: str) -> str:
        """What compose writes."""
        return compose(self.environ, *words)

    def wait_until_healthy(self) -> None:
        """As `make up` waits."""
        words = ("nanoclaw_cli", "containers", "--compose", "deploy/compose", "--seconds", "90")
        command = [sys.executable, "-m", *words]
        ran = subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"

    def container(self, service: str) -> str:
        """The id of a service's container."""
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        (found,) = self.api.containers(all=True, filters={"label": labels})
        return str(found["Id"])

    def pid(self, container: str) -> int:
        """Its first process, as the machine counts; 0 while it does not run."""
        return int(self.api.inspect_container(container)["State"]["Pid"])

    def kill(self, container: str) -> int:
        """SIGKILL from outside, which the engine takes for a crash, unlike its own kill; answers the process."""
        pid = self.pid(container)
        if pid:
            os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for_another(self, container: str, pid: int) -> None:
        """Until the engine has started it again."""
        deadline = time.monotonic() + 60
        while self.pid(container) in (0, pid):
            assert time.monotonic() < deadline, f"{container} was not started again"
            time.sleep(0.05)

    def agents(self) -> list[str]:
        """The containers of agents that run."""
        return [one["Id"] for one in self.api.containers(filters={"label": [f"nanoclaw.home={self.data}"]})]

    @contextmanager
    def cut_off(self, service: str) -> Iterator[None]:
        """The service without the network of the services, inside."""
        container, network = self.container(service), f"{self.project}_inside"
        self.api.disconnect_container_from_network(container, network)
        try:
            yield
        finally:
            self.api.connect_container_to_network(container, network, aliases=[service])

    def copy_store(self) -> Path:
        """Stops everything and answers a copy of the database."""
        self.compose("stop")
        volume = self.api.inspect_volume(f"{self.project}_store")["Mountpoint"]
        copied = self.folder / "store"
        shutil.copytree(volume, copied)
        return copied / "nanoclaw.db"

    def logs(self) -> str:
        """What the services wrote last."""
        ran = subprocess.run(
            ["deploy/compose", "logs", "--no-color", "--tail", "60"],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
        )
        return ran.stdout

    def verified(self) -> dict[str, object]:
        """What `audit verify` says in a container, while everything runs."""
        words = ("exec", "-T", "governance", "python3", "-m", "nanoclaw_cli", "audit", "verify", "--json")
        found: dict[str, object] = json.loads(self.compose(*words))
        return found
