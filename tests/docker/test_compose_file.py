"""compose.yaml as each compose reads it that is here: `docker compose` (v2) and docker-compose (1.29)."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from stack import composes

from nanoclaw_cli.addresses import Addresses
from nanoclaw_cli.services import SERVICES

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


def test_the_dispatcher_gets_the_engine_that_compose_speaks_to(tmp_path: Path) -> None:
    """Where DOCKER_HOST, or a context, names another than the usual one, unless it stands for a virtual machine; in the
    group of what a link leads to."""
    if not composes():
        pytest.skip("neither compose is here")
    (tmp_path / "socket").touch()
    group = 4321 if os.getuid() == 0 else os.getgid()  # only root can give it to one that the link has not
    os.chown(tmp_path / "socket", -1, group)
    (tmp_path / "link").symlink_to("socket")
    home = tmp_path / "home"
    plugins = os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker"))
    known = {"DOCKER_SOCKET": "", "DOCKER_GID": "", "HOME": str(home), "DOCKER_CONFIG": plugins}
    of_a_machine = run(tmp_path, "config", DOCKER_HOST=f"unix://{home}/.docker/desktop/docker.sock", **known).stdout
    assert re.search(r"source: /var/run/docker.sock|- /var/run/docker.sock:", of_a_machine)
    found = run(tmp_path, "config", DOCKER_HOST=f"unix://{tmp_path}/link", **known).stdout
    assert f"{tmp_path}/link" in found
    assert "/var/run/docker.sock" in found, "where the dispatcher finds it"
    assert not re.search(r"source: /var/run/docker.sock|- /var/run/docker.sock:", found)
    assert re.search(rf"group_add:\n\s*- ['\"]?{group}['\"]?\n", found)


def test_a_machine_with_one_cpu_is_enough(tmp_path: Path) -> None:
    """An engine creates no container that may use more than there are."""
    if not composes():
        pytest.skip("neither compose is here")
    (tmp_path / "nproc").write_text("#!/bin/sh\necho 1\n")
    (tmp_path / "nproc").chmod(0o755)
    ran = run(tmp_path, "config", PATH=f"{tmp_path}:{os.environ['PATH']}", COMPOSE_PROFILES="jaeger")
    limits = re.findall(r"cpus: ['\"]?([0-9.]+)", ran.stdout)
    assert len(limits) >= 6  # the services, the way in, Jaeger
    assert {float(limit) for limit in limits} == {1.0}


@pytest.mark.parametrize("name", ["NANOCLAW_DATA", "NANOCLAW_SECRETS"])
@pytest.mark.parametrize("path", ["data", "{}/a/../b", "{}/a/", "{}/a:b"])
def test_a_path_that_the_engine_would_read_in_another_way_is_refused_by_name(
    name: str, path: str, tmp_path: Path
) -> None:
    """Before anything is started: the engine takes a relative one for a volume, the dispatcher refuses the others."""
    ran = run(tmp_path, "config", **{name: path.format(tmp_path)})
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"{name}: is an absolute path without")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What starts and ends the containers, as one finds it who comes by a link."""
    clone, link = tmp_path / "clone", tmp_path / "link"
    shutil.copytree(ROOT / "deploy", clone / "deploy")
    for name in ("compose.yaml", "Makefile"):
        shutil.copy(ROOT / name, clone / name)
    link.symlink_to(clone)
    return link


def said(clone: Path, *words: str, **more: str) -> str:
    """What a command writes there."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "COMPOSE_"))}
    environ = {**known, "PWD": str(clone), **more}
    return subprocess.run(words, cwd=clone, env=environ, capture_output=True, text=True, check=True).stdout


def test_make_down_finds_the_agents_and_jaeger_whatever_is_set_by_then(clone: Path) -> None:
    """Agents by the folder with which compose told the dispatcher to label them; Jaeger, which restarts always."""
    if not composes():
        pytest.skip("neither compose is here")
    (data,) = set(re.findall(r"NANOCLAW_DISPATCHER_DOCKER_DATA: (\S+)", said(clone, "deploy/compose", "config")))
    script = said(clone, "make", "-n", "down", NANOCLAW_JAEGER="0")
    label = re.search(r"--filter (\"label=nanoclaw\S+)", script)
    assert label is not None
    assert said(clone, "bash", "-c", f"echo {label[1]}") == f"label=nanoclaw.home={data}\n"
    down = script.partition(" down ")[0] + " config --services"
    assert "jaeger" in said(clone, "bash", "-c", down, NANOCLAW_JAEGER="0").split()


def test_the_command_looks_where_the_ports_were_put(clone: Path) -> None:
    """`make up` and `deploy/nanoclaw` read the same variables."""
    nanoclaw = clone / ".venv" / "bin" / "nanoclaw"
    nanoclaw.parent.mkdir(parents=True)
    nanoclaw.write_text("#!/bin/sh\necho $NANOCLAW_AT\n")
    nanoclaw.chmod(0o755)
    assert said(clone, "deploy/nanoclaw") == "127.0.0.1\n"
    assert said(clone, "deploy/nanoclaw", NANOCLAW_AT="there") == "there\n"
    moved = Addresses.parse(said(clone, "deploy/nanoclaw", NANOCLAW_PORT_BROKER="7", NANOCLAW_BIND="0.0.0.0"))
    ports = {one.name: one.port for one in SERVICES} | {"broker": 7}
    assert {one.name: moved.target(one) for one in SERVICES} == {n: f"127.0.0.1:{port}" for n, port in ports.items()}
