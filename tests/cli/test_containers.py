"""`nanoclaw containers`: what it makes of the engine's words, with stand-ins for the two commands that it asks."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_cli.containers import parse


def container(service: str, status: str = "running", health: str = "", **state: Any) -> dict[str, Any]:
    """One of `docker inspect`."""
    told = {"Status": status, "ExitCode": 0, "Error": "", **state, **({"Health": {"Status": health}} if health else {})}
    return {
        "Id": f"id-{service}",
        "Name": f"/nanoclaw_{service}_1",
        "RestartCount": 2,
        "State": told,
        "Config": {"Labels": {"com.docker.compose.service": service}},
    }


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `docker` that shows inspect.json and execs where `serving` is there; a `compose` with one container.

    As version 2 of compose does, it lists what has stopped only where all are asked for.
    """
    for name, script in {
        "docker": f"case $1 in inspect) cat {tmp_path}/inspect.json;; exec) test -e {tmp_path}/serving;; esac",
        "compose": 'case $1 in ps) case "$*" in *--all*) echo id-x;; esac;; logs) echo "last words of $5";; esac',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_services_come_first_and_in_the_order_of_their_start() -> None:
    """Then what else there is, by name."""
    text = json.dumps([container(name) for name in ("jaeger", "dispatcher", "ingress", "governance")])
    assert [one.service for one in parse(text)] == ["governance", "dispatcher", "ingress", "jaeger"]


def test_ready_is_running_and_not_known_to_be_ill() -> None:
    """A container without a health check is ready once it runs; what has ended says how."""
    healthy, starting, bare, ended, unborn = parse(
        json.dumps(
            [
                container("governance", health="healthy"),
                container("broker", health="starting"),
                container("ingress"),
                container("jaeger", "exited", ExitCode=3),
                container("x", "created", Error="port is already allocated"),
            ]
        )
    )
    assert [one.ready for one in (healthy, starting, bare, ended, unborn)] == [True, False, True, False, False]
    assert ended.word == "exited (exit 3, restarted 2 times)"
    assert unborn.word == "created (port is already allocated)"


def test_what_ran_once_is_not_waited_for() -> None:
    """A `compose run` without --rm leaves a container that has ended, and never gets healthy."""
    once = container("setup", "exited")
    once["Config"]["Labels"]["com.docker.compose.oneoff"] = "True"
    assert [one.service for one in parse(json.dumps([container("jaeger"), once]))] == ["jaeger"]


async def test_it_asks_what_the_engine_has_not_asked_yet(nanoclaw: Any, engine: Path) -> None:
    """A container that serves is healthy at once, though the engine looks only every fifteen seconds."""
    (engine / "inspect.json").write_text(json.dumps([container("governance", health="starting"), container("jaeger")]))
    (engine / "serving").touch()
    ran = await nanoclaw("containers", "--compose", f"{engine}/compose")
    assert (ran.code, ran.err) == (0, "")
    assert "governance: healthy" in ran.out
    assert "127.0.0.1:50051" in ran.out
    assert "16686" in ran.out


async def test_one_that_does_not_get_healthy_is_named_with_its_last_words(nanoclaw: Any, engine: Path) -> None:
    """Exit code 1, the service, its log line, and what to read."""
    (engine / "inspect.json").write_text(json.dumps([container("broker", health="unhealthy")]))
    ran = await nanoclaw("containers", "--compose", f"{engine}/compose", "--seconds", "0.8")
    assert ran.code == 1
    assert "CONTAINER_NOT_HEALTHY: broker is unhealthy after 0.8 s: last words of broker" in ran.err
    assert f"{engine}/compose logs broker" in ran.err


async def test_one_that_ends_again_and_again_is_not_waited_for(nanoclaw: Any, engine: Path) -> None:
    """It is restarted always; a wrong setting is told in seconds, not when patience ends."""
    told = container("governance", "restarting", ExitCode=1) | {"RestartCount": "COUNT"}
    (engine / "inspect.json").write_text(json.dumps([container("broker", health="healthy"), told]))
    (engine / "count").write_text("")
    script = f"printf x >>{engine}/count; n=$(wc -c <{engine}/count); sed s/.COUNT./$((2 * n))/ {engine}/inspect.json"
    (engine / "docker").write_text(f"#!/bin/sh\n{script}\n")
    ran = await nanoclaw("containers", "--compose", f"{engine}/compose")
    assert ran.code == 1
    assert "CONTAINER_NOT_HEALTHY: governance is restarting (exit 1, restarted 8 times) after" in ran.err
    assert "last words of governance" in ran.err
