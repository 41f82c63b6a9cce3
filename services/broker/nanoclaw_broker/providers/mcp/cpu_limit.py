"""Work on the event loop that may take so much of the processor's time and no more, whatever is slow in it."""

import signal
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_AGAIN_SECONDS = 0.01
_working = False


class TookTooLong(Exception):
    """The work was broken off."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What the work answers. On the main thread, and not within itself.

    seconds: of the processor's time in this process, so that a busy machine makes no difference. Python code is broken
    off anywhere, and so is a match of the module `re`, which looks for signals and lets no other thread run meanwhile.
    The work must keep nothing that others see half done. Raises TookTooLong.
    """
    global _working
    if signal.getsignal(signal.SIGVTALRM) is not _ring:
        signal.signal(signal.SIGVTALRM, _ring)  # and it stays: a late signal without a handler ends the process
    try:
        try:
            _working = True
            # Again and again: where nothing can be raised, such as in a destructor, the first one is lost.
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _AGAIN_SECONDS)
            return work()
        finally:
            _working = False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _ring(*_: object) -> None:
    if _working:
        raise TookTooLong
