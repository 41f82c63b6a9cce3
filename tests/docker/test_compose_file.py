"""compose.yaml as each compose reads it that is here: `docker compose` (v2) and docker-compose (1.29)."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from stack import composes

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
    if request.param not in composes():
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
    if not composes():
        pytest.skip("neither compose is here")
    (tmp_path / "stat").write_text(f"#!/bin/sh\necho {user} {int(first) + 104}\n")
    (tmp_path / "stat").chmod(0o755)
    ran = run(tmp_path, "config", PATH=f"{tmp_path}:{os.environ['PATH']}", DOCKER_GID="", NANOCLAW_OWNER="")
    assert ran.returncode == 0, ran.stderr
    assert re.search(rf"group_add:\n\s*- ['\"]?{105 if rootless else 104}['\"]?\n", ran.stdout)


@pytest.mark.parametrize("name", ["NANOCLAW_DATA", "NANOCLAW_SECRETS"])
@pytest.mark.parametrize("path", ["data", "{}/a/../b", "{}/a/", "{}/a:b"])
def test_a_path_that_the_engine_would_read_in_another_way_is_refused_by_name(
    name: str, path: str, tmp_path: Path
) -> None:
    """Before anything is started: the engine takes a relative one for a volume, the dispatcher refuses the others."""
    ran = run(tmp_path, "config", **{name: path.format(tmp_path)})
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"{name}: is an absolute path without")


def test_make_down_finds_the_agents_of_a_clone_that_is_reached_by_a_link(tmp_path: Path) -> None:
    """By the folder with which compose told the dispatcher to label them."""
    if not composes():
        pytest.skip("neither compose is here")
    clone, link = tmp_path / "clone", tmp_path / "link"
    shutil.copytree(ROOT / "deploy", clone / "deploy")
    for name in ("compose.yaml", "Makefile"):
        shutil.copy(ROOT / name, clone / name)
    link.symlink_to(clone)
    known = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "COMPOSE_"))}
    there = {"cwd": link, "env": {**known, "PWD": str(link)}, "capture_output": True, "text": True, "check": True}
    told = subprocess.run(["deploy/compose", "config"], **there).stdout  # type: ignore[call-overload]
    (data,) = set(re.findall(r"NANOCLAW_DISPATCHER_DOCKER_DATA: (\S+)", told))
    script = subprocess.run(["make", "-n", "down"], **there).stdout  # type: ignore[call-overload]
    label = re.search(r"--filter label=(\S+)", script)
    assert label is not None
    said = subprocess.run(["bash", "-c", f"echo {label[1]}"], **there).stdout  # type: ignore[call-overload]
    assert said == f"nanoclaw.home={data}\n"
