"""compose.yaml as each compose reads it that is here: `docker compose` (v2) and docker-compose (1.29)."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
EVERYONE = {"governance", "broker", "gateway", "dispatcher", "ingress", "jaeger", "setup", "agent"}
FILES = {
    "compose.yaml": EVERYONE,
    "compose.yaml:tests/docker/compose.failures.yaml": EVERYONE,
    "compose.yaml:deploy/socket-proxy.yaml": EVERYONE | {"socket-proxy"},
}


@pytest.fixture(params=["docker compose", "docker-compose"])
def flavour(request: pytest.FixtureRequest) -> str:
    """Each in turn; neither needs an engine for this."""
    plugin = request.param == "docker compose"
    found = (
        subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        if plugin
        else (shutil.which(request.param))
    )
    if not found:
        pytest.skip(f"{request.param} is not here")
    return str(request.param)


def run(folder: Path, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """`deploy/compose`, with data in the folder."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "COMPOSE_"))}
    given = {"NANOCLAW_DATA": f"{folder}/data", "NANOCLAW_SECRETS": f"{folder}/secrets", "TEST_PLUGINS": f"{folder}/p"}
    environ = {**known, **given, "TEST_EFFECTS": f"{folder}/e", **more}
    return subprocess.run(
        [ROOT / "deploy" / "compose", *words], env=environ, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("files", FILES)
def test_it_is_valid_and_says_nothing(flavour: str, files: str, tmp_path: Path) -> None:
    """No member that one of the two does not know, no warning, and the same services."""
    more = {"NANOCLAW_COMPOSE": flavour, "COMPOSE_FILE": files, "COMPOSE_PROFILES": "setup,agent,jaeger"}
    ran = run(tmp_path, "config", "--services", **more)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(ran.stdout.split()) == FILES[files]


def test_an_unknown_compose_is_refused_by_name(tmp_path: Path) -> None:
    """With what it may be."""
    ran = run(tmp_path, "version", NANOCLAW_COMPOSE="podman-compose")
    assert ran.returncode == 2
    assert "is 'docker compose' or docker-compose, not 'podman-compose'" in ran.stderr


@pytest.mark.parametrize("rootless", [False, True])
def test_the_dispatcher_is_in_the_group_of_the_socket_as_containers_number_it(rootless: bool, tmp_path: Path) -> None:
    """A rootless engine's containers have other numbers: the user is root there, the groups of /etc/subgid follow."""
    lines = Path("/etc/subgid").read_text().splitlines() if rootless and Path("/etc/subgid").exists() else []
    user, first, _ = (lines or ["root:0:0"])[0].split(":")
    if rootless and not lines:
        pytest.skip("nobody has subordinate groups here")
    (tmp_path / "stat").write_text(f"#!/bin/sh\necho {user} {int(first) + 104}\n")
    (tmp_path / "stat").chmod(0o755)
    ran = run(tmp_path, "config", PATH=f"{tmp_path}:{os.environ['PATH']}", DOCKER_GID="", NANOCLAW_OWNER="")
    assert ran.returncode == 0, ran.stderr
    assert re.search(rf"group_add:\n\s*- ['\"]?{105 if rootless else 104}['\"]?\n", ran.stdout)
