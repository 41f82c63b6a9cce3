"""What runs attempts: one small Protocol, for processes, containers and the tests' fake alike.

A runtime is a driver over something that outlives it: processes with their files, or an engine with its containers.
The dispatcher may be killed at any moment; a new one opens the runtime again and finds by `list` and `inspect` all
that was created before. Nothing in a runtime decides: retries, timeouts and what an exit means are the dispatcher's.

Calls may come from several dispatchers at once. The promises that the others rest on:
- `start` runs an agent at most once per attempt_id, whoever calls it, how often, and whatever died in between;
- EXITED, LOST and ABSENT are only said when no process of the attempt is alive any more;
- a state that was said to be EXITED or LOST never changes, but to ABSENT by `remove`.
"""

import enum
from dataclasses import dataclass
from typing import Protocol

from nanoclaw_dispatcher.attempt_spec import AttemptSpec


class RunState(enum.StrEnum):
    """Where an attempt is, as its runtime sees it."""

    ABSENT = "absent"
    """Not known: never created, or removed."""
    CREATED = "created"
    """Ready to be started; no agent has run."""
    RUNNING = "running"
    """Alive, or about to be."""
    EXITED = "exited"
    """Over, with an exit code. Or stopped before it was started: then started_at is empty, and it never will be."""
    LOST = "lost"
    """It may have run, it runs no more, and nobody recorded how it ended."""


class EndReason(enum.StrEnum):
    """Why an attempt is over, where the exit code alone does not say."""

    NONE = ""
    """It ended by itself."""
    STOPPED = "STOPPED"
    """`stop` was called while it ran, or before."""
    START_FAILED = "START_FAILED"
    """The command or its sandbox could not be started; the last lines say why."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    """Killed for want of memory, as far as the runtime can tell."""


@dataclass(frozen=True, slots=True)
class Observed:
    """An attempt as it was seen.

    exit_code: of an EXITED one: 0 to 255, 128 + n where signal n ended it; 127 or 126 for a command that is not there
    or can't be run. started_at, ended_at: TEXT times, empty where unknown.
    """

    attempt_id: str
    state: RunState
    exit_code: int | None = None
    started_at: str = ""
    ended_at: str = ""
    reason: EndReason = EndReason.NONE

    @property
    def alive(self) -> bool:
        """Whether it takes a slot."""
        return self.state is RunState.RUNNING

    @property
    def over(self) -> bool:
        """Whether it has been started, or sealed, and can't run any more."""
        return self.state in (RunState.EXITED, RunState.LOST)


class Isolation(enum.StrEnum):
    """What stands between an agent and the machine; the words of GetStatus."""

    BUBBLEWRAP = "bubblewrap"
    CONTAINER = "container"
    NONE = "none"
    """No sandbox works here: only the built-in reference agents run."""
    UNSAFE = "unsafe"
    """No sandbox works here, and an operator allowed any command to run without."""


class Runtime(Protocol):
    """Runs attempts. Errors are NanoclawErrors; UNAVAILABLE ones may pass later, and then the call can be repeated.

    `inspect`, `wait`, `stop`, `last_lines`, `last_output_at` and `remove` of an unknown attempt are no errors.
    """

    @property
    def name(self) -> str:
        """`process`, `docker`, …: what a group's `runtime` says."""
        ...

    @property
    def isolation(self) -> Isolation:
        """As found by `open`; NONE before."""
        ...

    async def open(self) -> None:
        """Makes ready; really tries a sandbox once. Called before anything else. Raises UNAVAILABLE."""
        ...

    async def close(self) -> None:
        """Lets go. What runs goes on running, and the next runtime over the same place adopts it."""
        ...

    def has(self, attempt_id: str) -> bool:
        """Whether it keeps anything of the attempt, by its own records: at once, and however its engine fares."""
        ...

    async def create(self, spec: AttemptSpec) -> Observed:
        """Prepares an attempt, without running anything of it. Idempotent: an attempt that exists stays as it is.

        Raises DENIED NO_SANDBOX where its command may only run in a sandbox and there is none, UNAVAILABLE otherwise
        (a full disk, an engine that does not answer), PRECONDITION for what only a person can change (a missing image).
        """
        ...

    async def start(self, attempt_id: str) -> Observed:
        """Runs a created attempt; answers when it runs, or has already ended.

        For one that was started before, by anybody, or sealed by `stop`: changes nothing and answers what it is.
        A command that can't be run is no error: it is EXITED with START_FAILED. Raises NOT_FOUND ATTEMPT_NOT_FOUND,
        PRECONDITION NO_MAILBOX, UNAVAILABLE.
        """
        ...

    async def inspect(self, attempt_id: str) -> Observed:
        """What it is now."""
        ...

    async def wait(self, attempt_id: str) -> Observed:
        """Answers as soon as it is not RUNNING; event-driven. At once for one that is not. Can be cancelled freely."""
        ...

    async def stop(self, attempt_id: str, grace: float) -> Observed:
        """SIGTERM, then after `grace` seconds SIGKILL to all of it; answers when nothing of it is alive.

        A created one is sealed: it becomes EXITED and will never run. Idempotent; a second stop may shorten the grace.
        The grace runs out even if the caller dies meanwhile. Raises UNAVAILABLE.
        """
        ...

    async def last_lines(self, attempt_id: str) -> str:
        """The end of what it wrote to stdout and stderr: whole lines, at most 4 KiB of UTF-8, control characters
        escaped; empty if there is nothing."""
        ...

    async def last_output_at(self, attempt_id: str) -> str:
        """TEXT time when it last wrote something, or when it was started if it never did; empty if it never was."""
        ...

    async def remove(self, attempt_id: str) -> None:
        """Forgets it, with all that the runtime keeps of it; the mailbox and the group's folder stay.

        Idempotent. Raises PRECONDITION ATTEMPT_ALIVE for one that runs.
        """
        ...

    async def list(self) -> list[Observed]:
        """All attempts that it knows, of whatever dispatcher: for adoption, and to prune orphans."""
        ...


LAST_LINES_BYTES = 4096
"""At most this much of an attempt's output is kept in the database."""
