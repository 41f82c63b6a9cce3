"""Whether a dispatcher of this machine is still there: it holds a lock on a file, which dies with it."""

import contextlib
import fcntl
import os
from pathlib import Path


class Presence:
    """The lock of one dispatcher, `run/dispatcher-{instance}.lock`."""

    def __init__(self, folder: Path, instance: str) -> None:
        self._folder = folder
        self._path = self._of(instance)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def _of(self, instance: str) -> Path:
        return self._folder / f"dispatcher-{instance}.lock"

    def alive(self, instance: str) -> bool:
        """False if that dispatcher is known to be dead; True if it lives, or left no trace to tell by."""
        try:
            file = os.open(self._of(instance), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def sweep(self) -> None:
        """Removes the files of the dead whose leases are gone; call it after adoption."""
        for path in self._folder.glob("dispatcher-*.lock"):
            if path != self._path and not self.alive(path.stem.removeprefix("dispatcher-")):
                path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Gives the lock up, at the very end."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)
