"""What is with a container attempt: read from the engine and from the few files that outlive the container.

`attempts/{id}/container/` holds, out of the agent's reach but for `agent/`:

    agent/        what the container sees: its opening line, and the mark that it has run
    CLAUDE.md     a copy of the group's instructions
    spec.json     where its mailbox is
    lock          held by whoever starts, seals or removes it
    asked.json    a start was asked of the engine; from here on a container that is gone may have run
    stop.json     a stop was
    end.json      how it ended, from the moment that anybody was told so
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher.container_spec import FOR_AGENT, RAN
from nanoclaw_dispatcher.docker_engine import Container
from nanoclaw_dispatcher.runtime import EndReason, Observed, RunState

ASKED = "asked.json"
END = "end.json"

SEALED = 143
NOT_STARTED = 126
_NOT_STARTED = (126, 127)


def observe(attempt_id: str, folder: Path, container: Container | None) -> Observed:
    """What the attempt is now; an end is kept, so that it is told alike ever after."""
    if container is not None and container.running:
        return Observed(attempt_id, RunState.RUNNING, started_at=container.started_at)
    if (recorded := recorded_end(attempt_id, folder)) is not None:
        return recorded
    if container is None or container.status in ("removing", "dead"):
        if files.read(str(folder), ASKED) is None:
            return Observed(attempt_id, RunState.ABSENT)
        return record(folder, Observed(attempt_id, RunState.LOST))
    if container.status != "exited":
        return Observed(attempt_id, RunState.CREATED)
    return record(folder, _ended(attempt_id, folder, container))


def recorded_end(attempt_id: str, folder: Path) -> Observed | None:
    """The end that was told before."""
    end = files.read(str(folder), END)
    if end is None:
        return None
    return Observed(
        attempt_id,
        RunState(end["state"]),
        exit_code=end["exit_code"],
        started_at=end["started_at"],
        ended_at=end["ended_at"],
        reason=EndReason(end["reason"]),
    )


def record(folder: Path, seen: Observed, error: str = "") -> Observed:
    """Keeps an end. error: what the engine said, where it could not start it."""
    end = {
        "state": seen.state, "exit_code": seen.exit_code, "started_at": seen.started_at, "ended_at": seen.ended_at,
        "reason": seen.reason, "error": error,
    }  # fmt: skip
    with contextlib.suppress(FileNotFoundError):  # a container whose folder is gone; it is seen as it is
        files.write(str(folder), END, end)
    return seen


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Alone with the attempt, among threads and dispatchers; False if it is not there. Blocks."""
    try:
        descriptor = os.open(folder / files.LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder.exists()
    finally:
        os.close(descriptor)


def _ended(attempt_id: str, folder: Path, container: Container) -> Observed:
    try:
        runs = (folder / FOR_AGENT / RAN).read_bytes()[:64].split()
    except FileNotFoundError:
        runs = [b"run"]
    if len(runs) > 1:  # it was started again after its end, whose code is overwritten
        return Observed(attempt_id, RunState.LOST, started_at=container.started_at)
    reason = EndReason.NONE
    if files.read(str(folder), files.STOP) is not None:
        reason = EndReason.STOPPED
    elif container.out_of_memory and container.exit_code:
        reason = EndReason.OUT_OF_MEMORY
    elif not runs or container.exit_code in _NOT_STARTED:
        reason = EndReason.START_FAILED
    return Observed(
        attempt_id,
        RunState.EXITED,
        exit_code=container.exit_code,
        started_at=container.started_at,
        ended_at=container.ended_at,
        reason=reason,
    )
