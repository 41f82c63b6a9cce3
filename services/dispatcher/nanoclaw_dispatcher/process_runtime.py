"""The `process` runtime: each attempt is a process with a shim beside it, in a sandbox where the machine allows one.

All state is in files (attempt_files) and in the kernel (who lives, who holds a lock), so a new dispatcher adopts by
looking; nothing is remembered here. What a death in the middle of a start leaves behind is told by the shim; the rest:
- within `create`: a hidden folder that nobody takes for an attempt, or the whole of it, which is CREATED.
- within `start`: CREATED, if no shim got as far as the lock; else what the shim makes of it.
- within `stop`: stop.json. A shim that was told goes on with the grace; one that was not is told by the next stop; a
  start in between finds the file and seals the attempt.
- within `remove`: the attempt as it was, or a hidden folder, which the next remove sweeps up.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

from nanoclaw_core.clock import to_text
from nanoclaw_core.errors import Kind, NanoclawError, denied, not_found
from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher import code_mounts, sandbox
from nanoclaw_dispatcher import process_state as state
from nanoclaw_dispatcher.attempt_spec import AttemptSpec, check_attempt_id
from nanoclaw_dispatcher.process_spec import prepare
from nanoclaw_dispatcher.runtime import LAST_LINES_BYTES, Isolation, Observed, RunState
from nanoclaw_dispatcher.spawner import Spawner
from nanoclaw_dispatcher.tail import tail_lines

_PATIENCE = 5.0
"""Seconds that a shim may take over the grace before it is killed itself."""


class ProcessRuntime:
    """Attempts as processes of this machine. home: NANOCLAW_HOME. allow_unsandboxed: an operator's leave to run any
    command without a sandbox. use_sandbox: False does not even try one."""

    name = "process"

    def __init__(self, home: Path, *, allow_unsandboxed: bool = False, use_sandbox: bool = True) -> None:
        self._home = home
        self._attempts = home / "attempts"
        self._allow_unsandboxed = allow_unsandboxed
        self._use_sandbox = use_sandbox
        self._sandbox: sandbox.Sandbox | None = None
        self._spawner = Spawner(home / "logs" / "shim.log")
        self.no_sandbox_because = "the runtime is not open"

    @property
    def isolation(self) -> Isolation:
        if self._sandbox is not None:
            return Isolation.BUBBLEWRAP
        return Isolation.UNSAFE if self._allow_unsandboxed else Isolation.NONE

    async def open(self) -> None:
        try:
            self._attempts.mkdir(parents=True, exist_ok=True)
            self._spawner.open()
        except OSError as error:
            raise _unavailable(error) from error
        await asyncio.to_thread(code_mounts.compile_kit)
        self.no_sandbox_because = "it was not asked for"
        if self._use_sandbox:
            self._sandbox, self.no_sandbox_because = await asyncio.to_thread(sandbox.find, self._home)

    async def close(self) -> None:
        self._spawner.close()

    def has(self, attempt_id: str) -> bool:
        return self._folder(attempt_id).exists()

    async def create(self, spec: AttemptSpec) -> Observed:
        if self.isolation is Isolation.NONE and not spec.group.builtin:
            raise denied(
                "NO_SANDBOX",
                f"no sandbox works here ({self.no_sandbox_because}), so only the built-in reference agents run",
                "install bubblewrap and allow user namespaces, or set NANOCLAW_DISPATCHER_ALLOW_UNSANDBOXED=1",
                group=spec.group.name,
            )
        folder = self._folder(spec.attempt_id)
        if not folder.exists():
            await asyncio.sleep(0)  # what the caller asks others for at the same time goes out before our file work
            sandbox.check_mounts(spec.group.mounts, self._home)
            try:
                prepare(spec, folder, group_dir=self._home / "groups" / spec.group.name, sandbox=self._sandbox)
            except OSError as error:
                raise _unavailable(error) from error
        return await self.inspect(spec.attempt_id)

    async def start(self, attempt_id: str) -> Observed:
        folder = self._folder(attempt_id)
        for _ in range(3):  # again only if a shim died before it had begun
            seen = await self.inspect(attempt_id)
            if seen.state is RunState.ABSENT:
                raise not_found("attempt", attempt_id, "attempt_id", "create it first")
            if seen.state is not RunState.CREATED:
                return seen
            mailbox = str((files.read(str(folder), files.SPEC) or {}).get("mailbox", ""))
            if not Path(mailbox).is_dir():
                raise NanoclawError(
                    Kind.PRECONDITION, "NO_MAILBOX", f"{mailbox} is not there", next_step="open the mailbox first"
                )
            await self._spawner.spawn(str(folder))
        seen = await self.inspect(attempt_id)
        if seen.state is RunState.CREATED:
            raise NanoclawError(
                Kind.UNAVAILABLE, "SPAWN_FAILED", f"{attempt_id}: its shims died", next_step="try again"
            )
        return seen

    async def inspect(self, attempt_id: str) -> Observed:
        return state.observe(attempt_id, str(self._folder(attempt_id)))

    async def wait(self, attempt_id: str) -> Observed:
        while (seen := await self.inspect(attempt_id)).alive:
            await state.shim_ended(str(self._folder(attempt_id)))
        return seen

    async def stop(self, attempt_id: str, grace: float) -> Observed:
        folder = str(self._folder(attempt_id))
        try:
            async with asyncio.timeout(grace + _PATIENCE):
                while (seen := await self.inspect(attempt_id)).alive or seen.state is RunState.CREATED:
                    if seen.state is RunState.CREATED:
                        state.seal(folder)
                    else:
                        state.tell_to_stop(folder, grace)
                        await state.shim_ended(folder)
        except TimeoutError:
            # The shim hangs (SIGSTOP, or its disk does): the agent ends with it.
            state.signal_shim(folder, signal.SIGKILL)
            return await self.wait(attempt_id)
        except OSError as error:
            raise _unavailable(error) from error
        return seen

    async def last_lines(self, attempt_id: str) -> str:
        folder = self._folder(attempt_id)
        newer, more = _end(folder / files.OUTPUT)
        if more:
            return tail_lines(newer, cut=True)
        older, more = _end(folder / files.OLD_OUTPUT)
        return tail_lines(older + newer, cut=more)

    async def last_output_at(self, attempt_id: str) -> str:
        folder = self._folder(attempt_id)
        try:
            changed = (folder / files.OUTPUT).stat().st_mtime_ns
        except FileNotFoundError:
            return str((files.read(str(folder), files.STARTED) or {}).get("started_at", ""))
        return to_text(datetime.fromtimestamp(changed / 1e9, UTC))

    async def remove(self, attempt_id: str) -> None:
        folder = self._folder(attempt_id)
        seen = await self.inspect(attempt_id)
        if seen.state is not RunState.ABSENT:
            lock = None if seen.alive else files.take_lock(str(folder))
            if lock is None and not seen.alive:  # its shim has written down the end, and is about to let go
                await state.shim_ended(str(folder))
                lock = files.take_lock(str(folder))
            if lock is not None:
                folder.rename(mkdtemp(prefix=".gone-", dir=folder.parent))
                os.close(lock)
            elif folder.exists():
                raise NanoclawError(Kind.PRECONDITION, "ATTEMPT_ALIVE", f"{attempt_id} runs", next_step="stop it first")
        for leftover in folder.parent.glob(".*"):
            await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)
        with contextlib.suppress(OSError):  # the mailbox may still be in it
            folder.parent.rmdir()

    async def list(self) -> list[Observed]:
        found = sorted(path.parent.name for path in self._attempts.glob("*/run"))
        return [await self.inspect(attempt_id) for attempt_id in found]

    def _folder(self, attempt_id: str) -> Path:
        return self._attempts / check_attempt_id(attempt_id) / "run"


def _end(path: Path) -> tuple[bytes, bool]:
    """The last bytes of a file, more than enough for the last lines; and whether there is more before them."""
    want = 2 * LAST_LINES_BYTES
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - want))
            return file.read(), size > want
    except FileNotFoundError:
        return b"", False


def _unavailable(error: OSError) -> NanoclawError:
    return NanoclawError(
        Kind.UNAVAILABLE, "RUNTIME_UNAVAILABLE", f"the process runtime: {error.strerror}", next_step="try again"
    )
