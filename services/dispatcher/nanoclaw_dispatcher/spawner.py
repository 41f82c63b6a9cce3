"""The dispatcher's end of the fork server: keeps one running, and asks it for shims."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError

_PACKAGE_PARENT = str(Path(__file__).parent.parent)
_MAIN = "import sys; sys.path.append(sys.argv[1]); from nanoclaw_dispatcher.fork_server import main; main()"
_ANSWER_SECONDS = 10.0


class Spawner:
    """Starts shims. log: where they leave their tracebacks, if it ever comes to that."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._numbers = count(1)
        self._waiting: dict[str, asyncio.Future[tuple[str, str]]] = {}

    def open(self) -> None:
        """Starts the fork server, if there is none. Raises UNAVAILABLE SPAWN_FAILED."""
        if self._socket is not None:
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, self._log.open("ab") as log:
                # -I -S: neither the environment nor site-packages; it has a session of its own, so that Ctrl-C in a
                # terminal stops the dispatcher and not the agents.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _MAIN, _PACKAGE_PARENT, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise _failed(str(error)) from error
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_answer)

    def close(self) -> None:
        """Lets the fork server end; the shims stay."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the fork server is gone"))
        self._waiting.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int | None:
        """The fork server's."""
        return None if self._process is None else self._process.pid

    async def spawn(self, directory: str) -> str:
        """Has a shim run the attempt in `directory`; answers what the shim said (shim.STARTED or TAKEN).

        Asking again is harmless, since a shim that finds the attempt taken leaves: so it is asked twice if the fork
        server dies in between. Raises UNAVAILABLE SPAWN_FAILED.
        """
        why = ""
        for _ in range(2):
            self.open()
            try:
                result, why = await self._ask(directory)
            except OSError as error:
                self.close()
                why = str(error)
                continue
            if result != "failed":
                return result
            break
        raise _failed(why)

    async def _ask(self, directory: str) -> tuple[str, str]:
        assert self._socket is not None
        number = str(next(self._numbers))
        future: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):  # TimeoutError is an OSError
                self._socket.send(f"{number} {directory}".encode())
                return await future
        finally:
            self._waiting.pop(number, None)

    def _on_answer(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._socket is not None:
                try:
                    message = self._socket.recv(1 << 16).decode()
                except ConnectionError:
                    message = ""
                if not message:
                    self.close()
                    return
                number, result, why = message.split(" ", 2)
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result((result, why))


def _failed(why: str) -> NanoclawError:
    return NanoclawError(Kind.UNAVAILABLE, "SPAWN_FAILED", f"no process for the attempt: {why}", next_step="try again")
