"""Where tests that are not about a disk keep their homes: in memory, if there is room, under a short path."""

import os
import tempfile
from pathlib import Path

_SHARED, _ROOM = Path("/dev/shm"), 512 << 20


def folder() -> Path:
    """A new one, short enough for unix sockets in it; whoever asks for it removes it."""
    roomy = os.access(_SHARED, os.W_OK) and os.statvfs(_SHARED).f_bavail * os.statvfs(_SHARED).f_frsize > _ROOM
    return Path(tempfile.mkdtemp(prefix="nc-", dir=_SHARED if roomy else "/tmp"))
