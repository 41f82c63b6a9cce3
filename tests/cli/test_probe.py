"""`python -m nanoclaw_cli.probe`: what a container's health check asks."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_cli import probe
from nanoclaw_cli.services import SERVICES


async def test_a_service_is_healthy_while_it_serves(
    serve: Callable[..., Any], far_side: Any, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Exit 0 while grpc.health.v1 says SERVING; 1 and the word once it does not."""
    monkeypatch.setenv("NANOCLAW_HOME", str(home))
    for service in SERVICES:
        assert await asyncio.to_thread(probe.main, [service.name]) == 0
    assert await asyncio.to_thread(probe.main, []) == 0
    server = await serve(far_side.spec("governance"))
    target = server.addresses[0]
    assert await asyncio.to_thread(probe.problem, target) == ""
    server.set_serving(False)
    assert await asyncio.to_thread(probe.problem, target) == "NOT_SERVING"


def test_a_service_that_is_not_there_is_unhealthy(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit 1 at once, and the engine is told why."""
    monkeypatch.setenv("NANOCLAW_HOME", str(home))
    assert probe.main(["broker"]) == 1
    assert "broker does not serve: UNAVAILABLE" in capfd.readouterr().err
    assert probe.main([]) == 1
    assert "there is no socket" in capfd.readouterr().err
    assert probe.main(["nobody"]) == 2
    assert "governance|broker|gateway|dispatcher" in capfd.readouterr().err


def test_the_check_loads_little() -> None:
    """It runs every few seconds beside each service: the whole of our libraries would cost more than it does."""
    code = (
        "import sys; from nanoclaw_cli import probe; print(*sorted(m for m in sys.modules if m.startswith('nanoclaw')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["nanoclaw_cli", "nanoclaw_cli.probe", "nanoclaw_cli.services"]


def test_a_connection_that_breaks_down_is_told_in_our_words_alone(home: Path) -> None:
    """gRPC's own notes about connections go to nobody who did not ask for them."""
    gave_up = struct.pack(">BHBBIII", 0, 8, 7, 0, 0, 0, 2)  # GOAWAY: no stream was served; INTERNAL_ERROR

    def misbehave() -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(struct.pack(">BHBBI", 0, 0, 4, 0, 0))  # SETTINGS: none
                    connection.recv(4096)
                    connection.sendall(gave_up)

    (home / "run").mkdir(exist_ok=True)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "run" / "broker.sock"))
        listener.listen()
        answering = threading.Thread(target=misbehave)
        answering.start()
        asked = subprocess.run(
            [sys.executable, "-m", "nanoclaw_cli.probe", "broker"],
            env=ours | {"NANOCLAW_HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        listener.shutdown(socket.SHUT_RDWR)
        answering.join()
    assert asked.returncode == 1
    (said,) = asked.stderr.splitlines()
    assert said.startswith("broker does not serve: ")
