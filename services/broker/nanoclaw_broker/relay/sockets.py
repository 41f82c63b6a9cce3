"""An attempt's relay on disk: `attempts/{id}/relay/llm.sock`, made and removed by descriptors, nothing followed."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "relay"
SOCKET = "llm.sock"
_NEW = f".{SOCKET}.new"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BACKLOG = 64


class Sockets:
    """The sockets below NANOCLAW_HOME. agents_gid: the group that agents run under; None: as nobody but us."""

    def __init__(self, home: Path, agents_gid: int | None = None) -> None:
        self._attempts = home / "attempts"
        self._agents_gid = agents_gid

    def folder(self, attempt: str) -> Path:
        """What is shown to the agent: the folder, so that a new socket in it is seen too."""
        return self._attempts / attempt / FOLDER

    def listen(self, attempt: str) -> socket.socket:
        """A listening socket in place of the one before, if there was one. Raises OSError."""
        with self._held(attempt, make=True) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NEW, dir_fd=folder)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listening.bind(f"/proc/self/fd/{folder}/{_NEW}")  # the real path may be longer than a socket's may be
                self._share(folder, "", 0o750, 0o700)
                self._share(folder, _NEW, 0o660, 0o600)
                listening.listen(_BACKLOG)
                listening.setblocking(False)
                os.rename(_NEW, SOCKET, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                listening.close()
                raise
            return listening

    def remove(self, attempt: str) -> None:
        """Takes it away, with whatever else lies in its folder."""
        with contextlib.suppress(OSError):
            attempts = os.open(self._attempts / attempt, _OPEN)
            try:
                shutil.rmtree(FOLDER, ignore_errors=True, dir_fd=attempts)
            finally:
                os.close(attempts)

    def attempts(self) -> list[str]:
        """Those that have a relay's folder."""
        return sorted(path.parent.name for path in self._attempts.glob(f"*/{FOLDER}"))

    def wanted(self, attempt: str) -> bool:
        """Whether there is still anything of the attempt."""
        return (self._attempts / attempt).is_dir()

    @contextmanager
    def _held(self, attempt: str, *, make: bool) -> Iterator[int]:
        held: list[int] = []
        try:
            self._attempts.mkdir(parents=True, exist_ok=True, mode=0o750)
            held.append(os.open(self._attempts, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            for name in (attempt, FOLDER):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o750, dir_fd=held[-1])
                held.append(os.open(name, _OPEN, dir_fd=held[-1]))
            yield held[-1]
        finally:
            for descriptor in held:
                os.close(descriptor)

    def _share(self, folder: int, name: str, shared: int, own: int) -> None:
        """Opens it to the agents' group, if they have one, else to us alone."""
        path = f"/proc/self/fd/{folder}/{name}"
        if self._agents_gid is not None:
            os.chown(path, -1, self._agents_gid)
        os.chmod(path, own if self._agents_gid is None else shared)  # noqa: PTH101 - a path through a descriptor
