"""Keeps what this process holds in memory to itself: no core dump of it, no debugger of the same user's."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def withhold() -> None:
    """For good. Programs that it starts are not concerned, but for the limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # where dumps go to a program, the limit does not hold
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
