"""What is with a process attempt: read from its files and from the kernel, and the few changes made from outside."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher.runtime import EndReason, Observed, RunState

_SEALED = 128 + signal.SIGTERM
_MOMENT = 0.005


def observe(attempt_id: str, folder: str) -> Observed:
    """What the attempt is now. Kills what a dead shim may have left, and says RUNNING until that is gone."""
    spec = files.read(folder, files.SPEC)
    # In the opposite order of a shim's doings, which are lock, started.json, exit.json, unlock: so one that is seen to
    # have started, and then not to hold the lock, is over, and has recorded its end by then if it ever will.
    started = files.read(folder, files.STARTED) or {}
    held = files.lock_held(folder)
    started_at = str(started.get("started_at", ""))
    if (end := files.read(folder, files.EXIT)) is not None:
        return Observed(
            attempt_id,
            RunState.EXITED,
            exit_code=int(end["exit_code"]),
            started_at=str(end["started_at"]),
            ended_at=str(end["ended_at"]),
            reason=EndReason(end["reason"]),
        )
    if spec is None and not Path(folder).is_dir():
        return Observed(attempt_id, RunState.ABSENT)
    if held:
        if started and not shim_lives(folder):
            _kill_marked(spec)  # its sandbox holds the lock until it is gone
        return Observed(attempt_id, RunState.RUNNING, started_at=started_at)
    same_boot = spec is not None and spec.get("boot_id") == files.boot_id()
    if not started and same_boot:
        return Observed(attempt_id, RunState.CREATED)
    # Without a sandbox, what the agent started in turn may live on.
    if same_boot and _kill_marked(spec):
        return Observed(attempt_id, RunState.RUNNING, started_at=started_at)
    return Observed(attempt_id, RunState.LOST, started_at=started_at)


def seal(folder: str) -> None:
    """Ends a created attempt without it ever having run; nothing if it is being started, or was."""
    lock = files.take_lock(folder)
    if lock is None:
        return
    try:
        if files.read(folder, files.STARTED) is None and files.read(folder, files.EXIT) is None:
            end = {"exit_code": _SEALED, "reason": "STOPPED", "started_at": "", "ended_at": files.now_text()}
            files.write(folder, files.EXIT, end, durable=True)
    finally:
        os.close(lock)


def tell_to_stop(folder: str, grace: float) -> None:
    """Has the shim stop the agent; one that does not live yet finds stop.json when it does."""
    with contextlib.suppress(FileNotFoundError):
        files.write(folder, files.STOP, {"grace": grace})
        signal_shim(folder, signal.SIGTERM)


def signal_shim(folder: str, number: int) -> None:
    """Sends a signal to the shim, if it lives."""
    with _shim(folder) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)


def shim_lives(folder: str) -> bool:
    """Whether the shim that wrote started.json lives."""
    with _shim(folder) as descriptor:
        return descriptor is not None


async def shim_ended(folder: str) -> None:
    """Returns when the attempt's shim has ended; after a moment, if it has not yet said who it is, or just died."""
    with _shim(folder) as descriptor:
        if descriptor is None:
            await asyncio.sleep(_MOMENT)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)


@contextlib.contextmanager
def _shim(folder: str) -> Iterator[int | None]:
    """A pidfd of the shim that wrote started.json, None if it is gone.

    The start time is compared after opening: the descriptor names one process, whatever becomes of the number.
    """
    started = files.read(folder, files.STARTED) or {}
    try:
        descriptor = os.pidfd_open(int(started["pid"]))
    except (KeyError, ProcessLookupError):
        yield None
        return
    try:
        yield descriptor if files.start_time(started["pid"]) == started["start_time"] else None
    finally:
        os.close(descriptor)


def _kill_marked(spec: dict[str, Any] | None) -> bool:
    """SIGKILL to what is left of a dead shim's attempt; answers whether there was anything."""
    found = files.marked(spec["run"]) if spec is not None and "run" in spec else []
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)
