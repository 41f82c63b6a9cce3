"""An attempt on disk: the files that shim and dispatcher tell each other by, and who is alive.

`attempts/{id}/run/` holds, out of the agent's reach:

    spec.json      what to run; complete from the moment that `run` exists
    lock           held (an open file description lock) by the shim for life, and by its sandbox until that is gone
    started.json   pid and start time of the shim; written before anything of the agent runs
    stop.json      it shall end: {"grace": seconds}
    output.log     what the agent wrote; past a limit it becomes output.old, so the end is always there
    exit.json      how it ended; written once nothing of the agent is alive

This module and the shim import the standard library only, and little of it: they are what a start costs.
"""

# The shim's imports are what a start costs.
# ruff: noqa: PTH104, PTH116, PTH118, PTH123, PTH208

import contextlib
import fcntl
import functools
import json
import os
import struct
import time
from typing import Any

SPEC = "spec.json"
LOCK = "lock"
STARTED = "started.json"
STOP = "stop.json"
OUTPUT = "output.log"
OLD_OUTPUT = "output.old"
EXIT = "exit.json"

_FLOCK = "hhqqi4x"


def read(directory: str, name: str) -> dict[str, Any] | None:
    """The JSON object in a file; None if it is absent, or cut off by a power failure."""
    try:
        with open(os.path.join(directory, name), "rb") as file:
            value = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write(directory: str, name: str, value: dict[str, Any], *, durable: bool = False) -> None:
    """Puts a JSON object in place as a whole; `durable`: a power failure after the return does not lose it."""
    path = os.path.join(directory, name)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(json.dumps(value).encode())
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.rename(temporary, path)
    if durable:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def take_lock(directory: str) -> int | None:
    """Takes the attempt's lock for as long as the descriptor answered, and copies of it, are open.

    None if somebody else holds it or the attempt was removed. Never waits.
    """
    try:
        descriptor = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        # Removal renames the folder while it holds the lock: whoever opened the file before must not run it after.
        if os.path.samestat(os.fstat(descriptor), os.stat(os.path.join(directory, LOCK))):
            return descriptor
    except (BlockingIOError, PermissionError, FileNotFoundError, NotADirectoryError):
        pass
    os.close(descriptor)
    return None


def lock_held(directory: str) -> bool:
    """Whether anybody holds the lock; looking takes nothing, so it never gets in a shim's way."""
    try:
        descriptor = os.open(os.path.join(directory, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query)
    finally:
        os.close(descriptor)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def start_time(pid: int) -> int:
    """When the process began, in clock ticks since boot; with the pid it names a process for good.

    0: there is none, or a dead one that only waits to be reaped.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


@functools.cache
def boot_id() -> str:
    """This run of the kernel; no process outlives it."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""


def children(pid: int) -> list[int]:
    """The children of a process."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:  # the process is gone, or this kernel has no such file
        return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _parent(name) == pid]


RUN = "NANOCLAW_RUN"
"""The variable that marks an attempt's processes. Not by its id: another home on the machine may have the same one."""


def marked(run: str) -> list[int]:
    """Living processes that were started with this mark in their environment, as far as we may look."""
    mark = f"{RUN}={run}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def now_text() -> str:
    """The present as TEXT; nanoclaw_core.clock's form, without its imports."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"


def _parent(name: str) -> int:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
