"""The shim: stands by one attempt for life, so that what becomes of it is known whoever else dies.

It is forked from the fork server, has a session of its own, and does this, in this order:

1. takes the attempt's lock, or leaves. 2. leaves if `started.json` or `exit.json` is there: it ran, or was sealed.
3. writes `started.json`. 4. starts the agent, which dies with the shim. 5. copies its output to a file. 6. when it has
ended, or had to be stopped, kills what it left behind and waits until all of it is gone. 7. writes `exit.json` durably.

A death at any point (the shim's; that of a dispatcher changes nothing here):
- before 3: nothing has run; the lock falls free and the attempt is CREATED as before.
- between 3 and 7: the agent dies too: the kernel signals it (PR_SET_PDEATHSIG), a sandbox ends with its first process.
  The lock, which the sandbox holds as well, falls free when it is gone: LOST. It is never started again, though
  between 3 and 4 nothing had run yet: what can't be told apart is taken as run.
- in 7: exit.json is there as a whole or not at all; LOST if not.
- power failure: exit.json was flushed before anybody was told; of the rest nothing needs to have reached the disk,
  since an attempt of another boot without exit.json counts as LOST.

Only the standard library, little of it, and the two modules of ours that say the same.
"""

# Descriptors and bare paths: this runs between a fork and an exec.
# ruff: noqa: PTH104, PTH118

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher.agent_process import (
    NOT_EXECUTABLE,
    NOT_FOUND,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    AgentProcess,
    prctl,
)

STARTED, TAKEN, FAILED = "started", "taken", "failed"

_STOPPED_EARLY = 128 + signal.SIGTERM

_CHUNK = 1 << 16


def run(directory: str, reply: Callable[[str, str], None]) -> None:
    """Runs the attempt whose `run` folder is `directory`, to its end.

    reply: called once, as soon as it is known, with STARTED, TAKEN (another shim has it, or had) or FAILED and why.
    """
    prctl(PR_SET_NAME, b"nc-shim", 0, 0, 0)
    signals = _Signals()
    lock = files.take_lock(directory)
    if lock is None or files.read(directory, files.STARTED) or files.read(directory, files.EXIT):
        reply(TAKEN, "")
        return
    spec = files.read(directory, files.SPEC)
    if spec is None:
        reply(FAILED, "spec.json can't be read")
        return
    os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pid, started_at = os.getpid(), files.now_text()
    started = {"pid": pid, "start_time": files.start_time(pid), "started_at": started_at}
    files.write(directory, files.STARTED, started)
    # Who asks to stop writes stop.json and then reads started.json; we do it the other way round: one sees the other.
    if files.read(directory, files.STOP) is not None:
        _record(directory, {"exit_code": _STOPPED_EARLY, "reason": "STOPPED", "started_at": ""})
        reply(STARTED, "")
        return
    output = _Output(directory, int(spec["output_limit"]))
    try:
        agent = AgentProcess(spec, lock)
    except OSError as error:
        output.write(f"{spec['argv'][0]}: {error.strerror}\n".encode())
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        _record(directory, {"exit_code": code, "reason": "START_FAILED", "started_at": started_at})
        reply(STARTED, "")
        return
    reply(STARTED, "")
    stopped = _attend(directory, agent, output, signals)
    code, failed = agent.result()
    reason = "STOPPED" if stopped else "START_FAILED" if failed else ""
    _record(directory, {"exit_code": code, "reason": reason, "started_at": started_at})


def _attend(directory: str, agent: AgentProcess, output: "_Output", signals: "_Signals") -> bool:
    """Copies output and reaps until nothing of the agent is alive; answers whether it was told to stop."""
    poll = select.poll()
    for descriptor in (agent.output, agent.status_pipe, signals.pipe):
        poll.register(descriptor, select.POLLIN)
    kill_at: float | None = None
    while not agent.gone:
        timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic()) * 1000
        for descriptor, _ in poll.poll(timeout):
            if descriptor == signals.pipe:
                signals.drain()
            else:
                chunk = os.read(descriptor, _CHUNK)
                if not chunk:
                    poll.unregister(descriptor)
                elif descriptor == agent.output:
                    output.write(chunk)
                else:
                    agent.report(chunk)
        if signals.stop:
            signals.stop = False
            grace = float((files.read(directory, files.STOP) or {}).get("grace", 0.0))
            if kill_at is None and grace > 0:
                agent.terminate()
            kill_at = min(kill_at or float("inf"), time.monotonic() + grace)
        agent.reap()
        if agent.ended or (kill_at is not None and time.monotonic() >= kill_at):
            agent.kill()
            agent.reap()
            if not agent.gone:
                time.sleep(0.001)  # being killed takes the kernel a moment; its SIGCHLD may already have come
    # What was written last may have come after the last look: output, and the sandbox's word on the exit code.
    for descriptor, take in ((agent.output, output.write), (agent.status_pipe, agent.report)):
        os.set_blocking(descriptor, False)
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(descriptor, _CHUNK):
                take(chunk)
    return kill_at is not None


class _Signals:
    """SIGTERM asks for a stop; SIGCHLD wakes the loop."""

    def __init__(self) -> None:
        self.stop = False
        self.pipe, wake = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_stop(self, *_: object) -> None:
        self.stop = True

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.pipe, _CHUNK)


class _Output:
    """The output file, never more than twice `limit` bytes in all. A full disk loses output, not the agent."""

    def __init__(self, directory: str, limit: int) -> None:
        self._path = os.path.join(directory, files.OUTPUT)
        self._old = os.path.join(directory, files.OLD_OUTPUT)
        self._limit = limit
        self._size = 0
        self._descriptor = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, chunk: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._size + len(chunk) > self._limit:
                os.rename(self._path, self._old)
                os.close(self._descriptor)
                self._descriptor = self._open()
                self._size = 0
            self._size += os.write(self._descriptor, chunk)


def _record(directory: str, end: dict[str, Any]) -> None:
    end["ended_at"] = files.now_text()
    try:
        files.write(directory, files.EXIT, end, durable=True)
    except OSError:
        # A full disk: how it ended is worth more than what it wrote.
        for name in (files.OUTPUT, files.OLD_OUTPUT):
            with contextlib.suppress(OSError):
                os.truncate(os.path.join(directory, name), 0)
        files.write(directory, files.EXIT, end, durable=True)
