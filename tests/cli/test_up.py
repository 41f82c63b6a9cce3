"""`nanoclaw up` and `stop`: processes that are started, watched, restarted and stopped, and a will that lasts."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_cli import desired
from nanoclaw_cli.processes import is_process
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor, is_serving, read_state

FAKES = Path(__file__).parent / "fakes"
DEADLINE = 20.0


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    """The services' modules are the fakes; nothing listens on a port."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}
    return ours | {"PYTHONPATH": f"{FAKES}:{os.environ.get('PYTHONPATH', '')}", "NANOCLAW_HOME": str(home)}


class Command:
    """The command as a process of its own."""

    def __init__(self, environ: dict[str, str], *arguments: str) -> None:
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanoclaw_cli", *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_until(self, line: str) -> None:
        """Blocks until it has said that line."""
        assert self.process.stdout is not None
        for said in self.process.stdout:
            self.said += said
            if said.strip() == line:
                return
        raise AssertionError(f"it ended, and said {self.said}")

    def end(self) -> tuple[int, str, str]:
        """Waits for its end; answers exit code, all that it said, and its errors."""
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, self.said + out, err


@pytest.fixture
def nanoclaw_process(environ: dict[str, str], home: Path) -> Iterator[Callable[..., Command]]:
    """Starts the command; whatever still runs for the home afterwards is killed."""
    started: list[Command] = []

    def start(*arguments: str) -> Command:
        started.append(Command(environ, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()
    for pid, _ in read_state(home).values():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def up(nanoclaw_process: Callable[..., Command], home: Path) -> Command:
    """`nanoclaw up`, serving."""
    command = nanoclaw_process("up", "--no-ports")
    await asyncio.to_thread(command.read_until, "Ctrl-C stops it")
    assert await all_serve(home)
    return command


async def all_serve(home: Path) -> bool:
    return all(await asyncio.gather(*(is_serving(service.target(home)) for service in SERVICES)))


async def until(condition: Callable[[], Any]) -> None:
    """Waits for a condition (an awaitable one, too) before the deadline."""
    end = time.monotonic() + DEADLINE
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_up_serves_until_a_signal_and_leaves_nothing_behind(up: Command, home: Path) -> None:
    """SIGINT or SIGTERM: all stopped, exit 0, and it stays stopped."""
    running = read_state(home)
    assert set(running) == {"supervisor", *(service.name for service in SERVICES)}
    assert desired.wanted(home) == "running"
    up.process.send_signal(signal.SIGINT)
    code, out, err = await asyncio.to_thread(up.end)
    assert (code, err) == (0, "")
    assert "governance: serving" in out
    assert "founder.token" in out
    assert not any(is_process(*one) for one in running.values())
    assert read_state(home) == {}
    assert desired.wanted(home) == "stopped"


@pytest.mark.system
async def test_a_second_up_on_the_same_home_is_refused(
    up: Command, nanoclaw_process: Callable[..., Command], home: Path
) -> None:
    """In the foreground and detached; the first one is not disturbed."""
    before = read_state(home)
    for arguments in (("up",), ("up", "--detach")):
        code, _, err = await asyncio.to_thread(nanoclaw_process(*arguments).end)
        assert code == 1
        assert err.startswith("error ALREADY_RUNNING: the services of")
        assert "nanoclaw stop" in err
    assert read_state(home) == before
    assert await all_serve(home)


async def test_a_crashed_service_is_started_again(up: Command, home: Path) -> None:
    """And the log says so, as JSON."""
    pid, start = read_state(home)["broker"]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: read_state(home).get("broker", (pid, start))[0] != pid)
    await until(lambda: all_serve(home))
    lines = (home / "logs" / "supervisor.log").read_text().splitlines()
    assert any(json.loads(line).get("exit_code") == -9 for line in lines)


@pytest.mark.system
async def test_a_service_that_does_not_start_fails_the_whole_with_its_last_line(
    nanoclaw_process: Callable[..., Command], home: Path
) -> None:
    """Nothing is left half up."""
    (home / "fake").mkdir()
    (home / "fake" / "gateway").write_text("dies")
    for arguments in (("up", "--no-ports"), ("up", "--no-ports", "--detach")):
        code, _, err = await asyncio.to_thread(nanoclaw_process(*arguments).end)
        assert code == 1
        assert err.startswith("error SERVICE_DID_NOT_START: gateway does not serve: gateway can't start")
        assert "gateway.log" in err
        assert read_state(home) == {}


@pytest.mark.system
async def test_why_a_service_did_not_start_comes_with_its_own_next_step(
    nanoclaw_process: Callable[..., Command], home: Path
) -> None:
    """What the service advises first, its log after that."""
    (home / "fake").mkdir()
    (home / "fake" / "gateway").write_text("dies-with-advice")
    _, _, err = await asyncio.to_thread(nanoclaw_process("up", "--no-ports").end)
    log = home / "logs" / "gateway.log"
    assert err == (
        "error SERVICE_DID_NOT_START: gateway does not serve: TAKEN: can't start;"
        f" next step: take another port; or read {log}\n"
    )


async def test_stop_stops_on_a_disk_that_takes_nothing_more(
    up: Command, nanoclaw_process: Callable[..., Command], home: Path
) -> None:
    """That it was wanted can't be kept then, which is said; the services end."""
    running = read_state(home)
    (home / "run" / "desired.tmp").mkdir()  # what writing it would need
    code, out, err = await asyncio.to_thread(nanoclaw_process("stop").end)
    assert (code, out) == (1, "stopped\n")
    assert err.startswith(f"error FILE_FAILED: {home}/run/desired.tmp: is a directory; next step: ")
    assert not any(is_process(*one) for one in running.values())


@pytest.mark.parametrize("arguments", [("up",), ("up", "--detach"), ("demo",), ("stop",)])
async def test_a_home_that_is_no_folder_is_refused_in_one_line(
    nanoclaw: Any, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """With the file's name and what to do; no traceback."""
    (tmp_path / "file").touch()
    ran = await nanoclaw("--home", str(tmp_path / "file"), *arguments)
    assert ran.code == 1
    assert ran.err.startswith(f"error FILE_FAILED: {tmp_path}/file/")
    assert ran.err.count("\n") == 1


async def test_detached_it_answers_once_it_serves_and_stop_ends_it(
    nanoclaw_process: Callable[..., Command], home: Path
) -> None:
    """The command returns, the services stay; stop takes them down and says what it stopped."""
    code, out, err = await asyncio.to_thread(nanoclaw_process("up", "--detach", "--no-ports", "--json").end)
    assert (code, err) == (0, "")
    assert set(json.loads(out)["services"]) == {service.name for service in SERVICES}
    assert await all_serve(home)
    running = read_state(home)
    code, out, _ = await asyncio.to_thread(nanoclaw_process("stop", "--json").end)
    assert code == 0
    assert json.loads(out) == {"stopped": sorted(service.name for service in SERVICES)}
    assert not any(is_process(*one) for one in running.values())
    code, out, _ = await asyncio.to_thread(nanoclaw_process("stop").end)
    assert (code, out) == (0, f"nothing is running for {home}\n")


async def test_the_ports_begin_where_they_are_told_to(
    nanoclaw_process: Callable[..., Command], home: Path, environ: dict[str, str]
) -> None:
    """`--port` names governance's, the others follow, each service is told, and the answer names them."""
    command = nanoclaw_process("up", "--detach", "--port", "61551", "--json")
    code, out, err = await asyncio.to_thread(command.end)
    assert (code, err) == (0, "")
    ports = {"governance": 61551, "broker": 61552, "dispatcher": 61553, "gateway": 61554}
    assert json.loads(out)["ports"] == {name: [f"127.0.0.1:{port}"] for name, port in ports.items()}
    for name, port in ports.items():
        told = Path(f"/proc/{read_state(home)[name][0]}/environ").read_text().split("\0")
        assert f"NANOCLAW_{name.upper()}_LISTEN=unix:{home}/run/{name}.sock,127.0.0.1:{port}" in told


@pytest.mark.parametrize("given", [None, "DEBUG"])
async def test_the_services_logs_keep_what_grpc_notes(home: Path, environ: dict[str, str], given: str | None) -> None:
    """Why a handshake failed stands nowhere else: that the command itself hushes gRPC is no matter of theirs."""
    told = {name: value for name, value in environ.items() if name != "GRPC_VERBOSITY"}
    told |= {"GRPC_VERBOSITY": given} if given else {}
    command = Command(told, "up", "--detach", "--no-ports")
    try:
        code, _, err = await asyncio.to_thread(command.end)
        assert (code, err) == (0, "")
        for pid, _ in (read_state(home)[service.name] for service in SERVICES):
            found = Path(f"/proc/{pid}/environ").read_text().split("\0")
            verbosity = [line for line in found if line.startswith("GRPC_VERBOSITY=")]
            assert verbosity == ([f"GRPC_VERBOSITY={given}"] if given else [])
    finally:
        await asyncio.to_thread(Command(told, "stop").end)


@pytest.mark.parametrize("port", ["0", "65533", "http"])
async def test_a_port_that_is_none_is_refused(nanoclaw: Any, home: Path, port: str) -> None:
    """Four must fit; nothing is started."""
    ran = await nanoclaw("up", "--port", port)
    assert ran.code == 2
    assert "--port" in ran.err
    assert read_state(home) == {}


@pytest.mark.system
async def test_stop_ends_what_a_killed_supervisor_left_behind(
    up: Command, nanoclaw_process: Callable[..., Command], home: Path
) -> None:
    """SIGKILL on the supervisor orphans the services; stop finds them by pid and start time."""
    orphans = read_state(home)
    up.process.kill()
    up.process.wait()
    assert await all_serve(home)
    assert desired.wanted(home) == "running"
    assert (await asyncio.to_thread(nanoclaw_process("stop").end))[0] == 0
    assert not any(is_process(*one) for one in orphans.values())
    assert desired.wanted(home) == "stopped"


@pytest.mark.system
async def test_up_takes_over_from_a_killed_supervisor(
    up: Command, nanoclaw_process: Callable[..., Command], home: Path
) -> None:
    """The orphans are ended first: never two of a service."""
    orphans = read_state(home)
    up.process.kill()
    up.process.wait()
    nanoclaw_process("up", "--no-ports")
    await until(lambda: "gateway" in read_state(home) and read_state(home)["gateway"] != orphans["gateway"])
    await until(lambda: all_serve(home))
    assert not any(is_process(*one) for one in orphans.values())


async def test_a_signal_while_they_start_stops_them_too(nanoclaw_process: Callable[..., Command], home: Path) -> None:
    """Nobody waits half a minute for a service that hangs."""
    (home / "fake").mkdir()
    (home / "fake" / "dispatcher").write_text("silent")
    command = nanoclaw_process("up", "--no-ports")
    await asyncio.to_thread(command.read_until, "gateway: serving")
    command.process.send_signal(signal.SIGTERM)
    code, _, err = await asyncio.to_thread(command.end)
    assert (code, err) == (0, "")
    assert read_state(home) == {}
    assert desired.wanted(home) == "stopped"


@pytest.mark.system
async def test_a_service_that_fails_at_its_restart_is_tried_again(environ: dict[str, str], home: Path) -> None:
    """The watch outlives a failed restart."""
    async with Supervisor(home, [sys.executable], environ, backoff=(0.0,)).running() as supervisor:
        (home / "fake").mkdir()
        (home / "fake" / "broker").write_text("dies-once")
        pid, _ = read_state(home)["broker"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts.get("broker") == 2)
        await until(lambda: all_serve(home))


@pytest.mark.system
async def test_a_service_that_can_t_be_started_again_is_tried_until_it_can(environ: dict[str, str], home: Path) -> None:
    """A machine that has no room for it for a while, for its log or its process, does not lose the watch over it."""
    said: list[str] = []
    supervisor = Supervisor(
        home, [sys.executable], environ, backoff=(0.05,), notice=lambda name, what: said.append(f"{name}: {what}")
    )
    async with supervisor.running():
        (home / "logs" / "broker.log").rename(home / "logs" / "before")
        (home / "logs" / "broker.log").mkdir()
        pid, _ = read_state(home)["broker"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: said.count("broker: can't be started: Is a directory") >= 2)
        (home / "logs" / "broker.log").rmdir()
        await until(lambda: all_serve(home))


async def test_who_ignores_sigterm_is_killed_after_the_grace(
    environ: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop ends, whatever a service does."""
    monkeypatch.setattr("nanoclaw_cli.supervisor.STOP_GRACE_SECONDS", 0.2)
    (home / "fake").mkdir()
    (home / "fake" / "broker").write_text("deaf")
    async with Supervisor(home, [sys.executable], environ).running():
        running = read_state(home)
    assert not any(is_process(*one) for name, one in running.items() if name != "supervisor")
