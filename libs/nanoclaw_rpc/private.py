"""Files and folders that their owner alone can read, from the first moment; files are there whole or not at all."""

import os
from pathlib import Path


def folder(path: Path, below: Path) -> None:
    """Makes the folder (0700) where it is missing, and so those above it down from `below`: mkdir leaves them open."""
    if path != below:
        folder(path.parent, below)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def write(path: Path, text: str) -> None:
    """Writes the file (0600), in the place of an older one if there is one; survives a power loss once it returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
