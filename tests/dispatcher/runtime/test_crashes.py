"""Processes under fire: whoever dies when, an agent runs at most once and nothing of a lost one stays alive."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher.runtime import EndReason, RunState

# They look at all processes of the machine, and at moments: not beside other tests.
pytestmark = pytest.mark.crash

# A dispatcher of its own: opens a runtime over the home, then does as told on stdin, one word at a time.
DISPATCHER = """
import asyncio, sys
from pathlib import Path
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.groups import Group, Role
from nanoclaw_dispatcher.process_runtime import ProcessRuntime
home, sandboxed, attempt_id, *command = sys.argv[1:]

async def main():
    runtime = ProcessRuntime(Path(home), use_sandbox=sandboxed == "True", allow_unsandboxed=True)
    await runtime.open()
    group = Group("developer", Role.EXECUTOR, command=tuple(command))
    spec = AttemptSpec(attempt_id, "key", "task-1", group, Path(home, "attempts", attempt_id, "ipc"), "{}\\n")
    print(f"open {runtime._spawner.pid}", flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "create":
            await runtime.create(spec)
        elif word == "start":
            await runtime.start(attempt_id)
        elif word == "stop":
            await runtime.stop(attempt_id, 1)
        print(word, flush=True)

asyncio.run(main())
"""


class Dispatcher:
    """Another dispatcher's process."""

    def __init__(self, place: Any, attempt_id: str, program: str) -> None:
        place.spec(attempt_id, program)
        command = [str(place.home), str(place.sandboxed), attempt_id, *place.command(program)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", DISPATCHER, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.spawner = int(self.heard().split()[1])

    def say(self, *words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{word}\n" for word in words))
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def alive(pid: int) -> bool:
    return files.start_time(pid) != 0


async def test_dispatchers_that_race_for_an_attempt_run_it_once(processes: Any) -> None:
    """Four processes, each with its own fork server, create and start the same attempt at the same moment."""
    racers = [Dispatcher(processes, f"a-{number // 4}", "exit") for number in range(8)]
    for racer in racers:
        racer.say("create", "start")
    for racer in racers:
        assert [racer.heard(), racer.heard()] == ["create\n", "start\n"]
        racer.kill()
    for attempt_id in ("a-0", "a-1"):
        assert (await processes.runtime.wait(attempt_id)).state is RunState.EXITED
        assert processes.runs(attempt_id) == 1


async def test_an_agent_outlives_the_dispatcher_that_started_it(processes: Any) -> None:
    """SIGKILL to the dispatcher; the next one adopts: it learns of the end the moment it comes, with its exit code."""
    first = Dispatcher(processes, "a-1", "polite")
    first.say("create", "start")
    assert [first.heard(), first.heard()] == ["create\n", "start\n"]
    first.kill()
    await processes.until(lambda: processes.said("a-1", "ready"))
    waiting = asyncio.create_task(processes.runtime.wait("a-1"))
    await processes.runtime.create(processes.spec("a-1", "polite"))
    assert (await processes.runtime.start("a-1")).alive
    ended = await processes.runtime.stop("a-1", 10)
    assert await waiting == ended
    assert ended.exit_code == 5
    assert processes.runs("a-1") == 1


async def test_the_grace_runs_out_though_the_dispatcher_died(processes: Any) -> None:
    """The shim was told once, and needs nobody to remember."""
    await processes.started("a-1", "stubborn")
    first = Dispatcher(processes, "a-1", "stubborn")
    first.say("stop")
    await processes.until(lambda: processes.said("a-1", "heard"))
    first.kill()
    ended = await processes.runtime.wait("a-1")
    assert (ended.exit_code, ended.reason) == (137, EndReason.STOPPED)


@pytest.mark.parametrize("seed", range(3))
async def test_deaths_in_the_middle_of_a_start_never_make_two_runs(processes: Any, seed: int) -> None:
    """Dispatcher, fork server or shim die at a random moment of create and start; then another one starts it anew.

    Whatever happened: at most one run, and if the attempt says EXITED by itself, exactly one.
    """
    chance = random.Random(seed)
    for number in range(6):
        attempt_id = f"a-{number}"
        first = Dispatcher(processes, attempt_id, "exit")
        first.say("create", "start")
        victim = chance.choice(["dispatcher", "fork server", "shim"])
        moment = time.monotonic() + chance.uniform(0, 0.025)
        while time.monotonic() < moment:
            pass
        if victim == "fork server":
            os.kill(first.spawner, signal.SIGKILL)
        elif victim == "shim":
            for pid in files.children(first.spawner):
                os.kill(pid, signal.SIGKILL)
        first.kill()
        await processes.runtime.create(processes.spec(attempt_id, "exit"))
        await processes.runtime.start(attempt_id)
        ended = await processes.runtime.wait(attempt_id)
        assert ended.state in (RunState.EXITED, RunState.LOST), victim
        assert processes.runs(attempt_id) <= 1, victim
        if ended.state is RunState.EXITED and ended.reason is EndReason.NONE:
            assert processes.runs(attempt_id) == 1, victim


async def test_a_shim_takes_its_agent_along(processes: Any) -> None:
    """SIGKILL to the shim: LOST is said, and when it is said neither the agent nor its children are alive."""
    program = processes.command("wait")
    script = "(trap '' HUP TERM; sleep 300) & setsid sleep 300 & " + program[2]
    await processes.started("a-1", "wait", command=("/bin/sh", "-c", script, *program[3:]))
    family = processes.family("a-1")
    assert len(family) >= 3
    os.kill(processes.shim("a-1"), signal.SIGKILL)
    assert (await processes.runtime.wait("a-1")).state is RunState.LOST
    assert [pid for pid in family if alive(pid) and pid in processes.family("a-1")] == []


async def test_an_agent_dies_with_its_shim_though_nobody_looks(processes: Any) -> None:
    """The kernel sees to it, not a dispatcher that comes by."""
    await processes.started("a-1", "wait")
    family = processes.family("a-1")
    os.kill(processes.shim("a-1"), signal.SIGKILL)

    async def gone() -> bool:
        return not set(family[:1]) & set(processes.family("a-1"))

    await processes.until(gone)


async def test_what_an_agent_leaves_behind_ends_with_it(processes: Any) -> None:
    """A daemon in a session of its own would go on working under an attempt that is over."""
    script = "setsid sh -c 'trap \"\" TERM; sleep 300' & sleep 300 & exit 0"
    await processes.started("a-1", "wait", command=("/bin/sh", "-c", "echo ready; " + script))
    assert (await processes.runtime.wait("a-1")).exit_code == 0
    assert processes.family("a-1") == []


async def test_a_shim_that_hangs_is_put_down(processes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP to the shim: stop does not wait for ever, and the agent ends with it."""
    monkeypatch.setattr("nanoclaw_dispatcher.process_runtime._PATIENCE", 0.2)
    await processes.started("a-1", "wait")
    os.kill(processes.shim("a-1"), signal.SIGSTOP)
    assert (await processes.runtime.stop("a-1", 0.1)).state is RunState.LOST
    assert processes.family("a-1") == []


async def test_the_fork_server_may_die_between_two_starts(processes: Any) -> None:
    """It is started again, and the agents that it started before don't notice."""
    await processes.started("a-1", "polite")
    os.kill(processes.runtime._spawner.pid, signal.SIGKILL)
    await processes.started("a-2", "exit", "3")
    assert (await processes.runtime.wait("a-2")).exit_code == 3
    assert (await processes.runtime.stop("a-1", 10)).exit_code == 5


async def test_the_fork_server_ends_with_its_dispatcher(processes: Any) -> None:
    """SIGKILL to the dispatcher leaves none behind."""
    first = Dispatcher(processes, "a-1", "exit")
    first.kill()

    async def gone() -> bool:
        return not alive(first.spawner)

    await processes.until(gone)


def test_the_fork_server_carries_little() -> None:
    """Every agent's shim is a copy of it: the standard library alone, and of it neither asyncio nor subprocess."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import nanoclaw_dispatcher.fork_server\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names - sys.stdlib_module_names), sorted(names & {'asyncio', 'subprocess', 'typing_extensions'}))"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(Path(files.__file__).parent.parent)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['__main__', 'nanoclaw_dispatcher'] []"


async def test_a_claim_without_a_shim_counts_as_run(processes: Any) -> None:
    """A shim that died between its claim and the agent's first instruction: not told apart, so not repeated."""
    await processes.runtime.create(processes.spec("a-1", "exit"))
    files.write(_run(processes, "a-1"), files.STARTED, {"pid": 1, "start_time": 7, "started_at": files.now_text()})
    assert (await processes.runtime.inspect("a-1")).state is RunState.LOST
    assert (await processes.runtime.start("a-1")).state is RunState.LOST
    assert processes.runs("a-1") == 0


async def test_a_pid_that_was_given_to_somebody_else_is_left_alone(processes: Any) -> None:
    """Only pid and start time together are the shim; the stranger gets no signal, and nobody waits for its end."""
    await processes.runtime.create(processes.spec("a-1", "exit"))
    folder = _run(processes, "a-1")
    sandbox_not_yet_gone = files.take_lock(folder)
    assert sandbox_not_yet_gone is not None
    with subprocess.Popen(["sleep", "60"]) as stranger:
        claim = {"pid": stranger.pid, "start_time": files.start_time(stranger.pid) - 1, "started_at": files.now_text()}
        files.write(folder, files.STARTED, claim)
        stopping = asyncio.create_task(processes.runtime.stop("a-1", 0))

        async def asked_to_stop() -> bool:
            return files.read(folder, files.STOP) is not None

        await processes.until(asked_to_stop)
        os.close(sandbox_not_yet_gone)
        assert (await stopping).state is RunState.LOST
        assert stranger.poll() is None
        stranger.kill()


async def test_nothing_of_another_boot_is_started_again(processes: Any) -> None:
    """After a power failure the claim may be missing though the agent ran: LOST, unless its end was recorded."""
    for attempt_id in ("a-1", "a-2"):
        await processes.runtime.create(processes.spec(attempt_id, "exit"))
    await processes.runtime.start("a-2")
    ended = await processes.runtime.wait("a-2")
    for attempt_id in ("a-1", "a-2"):
        spec = files.read(_run(processes, attempt_id), files.SPEC)
        assert spec is not None
        files.write(_run(processes, attempt_id), files.SPEC, spec | {"boot_id": "another"})
    assert (await processes.runtime.start("a-1")).state is RunState.LOST
    assert await processes.runtime.inspect("a-2") == ended
    assert processes.runs("a-1") == 0


async def test_a_stop_that_came_before_the_shim_is_not_forgotten(processes: Any) -> None:
    """A dispatcher wrote stop.json and died: the start that follows seals the attempt."""
    await processes.runtime.create(processes.spec("a-1", "exit"))
    files.write(_run(processes, "a-1"), files.STOP, {"grace": 5})
    seen = await processes.runtime.start("a-1")
    assert (seen.state, seen.reason, seen.started_at) == (RunState.EXITED, EndReason.STOPPED, "")
    assert processes.runs("a-1") == 0


async def test_an_attempt_that_is_removed_while_it_is_started_does_not_run(
    processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removal holds the lock; a shim that had opened the file before finds that it is not the attempt's any more."""
    await processes.runtime.create(processes.spec("a-1", "exit"))
    folder = _run(processes, "a-1")
    held = files.take_lock(folder)
    assert held is not None
    assert files.take_lock(folder) is None
    assert files.lock_held(folder)
    os.close(held)
    assert not files.lock_held(folder)
    plain_open = os.open

    def removed_after_open(path: str, flags: int) -> int:
        descriptor = plain_open(path, flags)
        Path(folder).rename(folder + ".gone")
        return descriptor

    monkeypatch.setattr(os, "open", removed_after_open)
    assert files.take_lock(folder) is None


async def test_a_start_in_the_midst_of_a_look_is_not_taken_for_a_loss(
    processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look reads several files; a shim that comes to life between two of them must not be found dead, and killed."""
    await processes.runtime.create(processes.spec("a-1", "exit"))
    folder = _run(processes, "a-1")
    plain_lock_held, plain_read = files.lock_held, files.read
    shims: list[int] = []
    agent = subprocess.Popen(["sleep", "60"], env={"NANOCLAW_ATTEMPT": "a-1"})

    def shim_starts() -> None:
        if not shims:
            shims.append(files.take_lock(folder) or -1)
            claim = {"pid": agent.pid, "start_time": files.start_time(agent.pid), "started_at": files.now_text()}
            files.write(folder, files.STARTED, claim)

    def lock_held(directory: str) -> bool:
        held = plain_lock_held(directory)
        shim_starts()
        return held

    def read(directory: str, name: str) -> Any:
        value = plain_read(directory, name)
        if name == after:
            shim_starts()
        return value

    killed: list[int] = []
    for after in (files.SPEC, files.STARTED, files.EXIT, "the lock"):
        monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
        monkeypatch.setattr(files, "read", read)
        if after == "the lock":
            monkeypatch.setattr(files, "lock_held", lock_held)
        seen = await processes.runtime.inspect("a-1")
        monkeypatch.undo()
        os.close(shims.pop())
        Path(folder, files.STARTED).unlink()
        if killed or seen.state not in (RunState.CREATED, RunState.RUNNING):
            pytest.fail(f"a shim that started after {after} was read made it {seen.state}")
    agent.kill()
    agent.wait()


async def test_half_created_attempts_are_nobodys(processes: Any) -> None:
    """A dispatcher died within create: the next create does it all, and remove sweeps the rest."""
    spec = processes.spec("a-1", "exit", "3")
    (spec.mailbox.parent / ".new-abc").mkdir()
    assert await processes.runtime.list() == []
    await processes.runtime.create(spec)
    await processes.runtime.start("a-1")
    assert (await processes.runtime.wait("a-1")).exit_code == 3
    await processes.runtime.remove("a-1")
    assert [path.name for path in spec.mailbox.parent.iterdir()] == ["ipc"]


async def test_output_takes_two_megabytes_of_disk_at_most(processes: Any) -> None:
    """However much an agent writes."""
    await processes.started("a-1", "flood", str(20 << 20))
    await processes.runtime.wait("a-1")
    written = sum(path.stat().st_size for path in Path(_run(processes, "a-1")).glob("output.*"))
    assert written <= 2 << 20


def _run(place: Any, attempt_id: str) -> str:
    return str(place.home / "attempts" / attempt_id / "run")


async def test_another_homes_attempt_of_the_same_name_is_left_alone(processes: Any, tmp_path: Path) -> None:
    """Two clones on one machine may run a task of the same name: what dies in the one does not end the other."""
    other = type(processes)(tmp_path, processes.sandboxed)
    await other.open()
    try:
        await processes.started("a-1", "wait")
        await other.started("a-1", "wait")
        os.kill(processes.shim("a-1"), signal.SIGKILL)
        assert (await processes.runtime.wait("a-1")).state is RunState.LOST
        assert (await other.runtime.inspect("a-1")).state is RunState.RUNNING
        assert other.family("a-1")
    finally:
        await other.close()
