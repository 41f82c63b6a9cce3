"""The process of a service: its event loop, and a garbage collector that knows what stays."""

import gc
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from nanoclaw_core.errors import NanoclawError, file_failed

YOUNG = 10_000
"""Objects made, less those freed, until the youngest are looked through; Python's own 700 are a few requests."""

NEXT_STEP = "; next step: "
"""In a service's last line, between what went wrong and what to do."""

Serve = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""A service's run, given what it calls once it serves."""


def run_process(serve: Serve) -> None:
    """Runs a service to its end. Raises what it raises."""
    uvloop.run(serve(settle))


def exit_code(service: str, work: Callable[[], None]) -> int:
    """Runs a service's process; 0 after a drained stop, 1 where it could not start or go on, why in its last line."""
    try:
        work()
    except NanoclawError as error:
        sys.stderr.write(f"{service}: {error}{NEXT_STEP}{error.next_step}\n")
        return 1
    except OSError as error:
        traceback.print_exc()
        failed = file_failed(error)
        sys.stderr.write(f"{service}: {failed}{NEXT_STEP}{failed.next_step}\n")
        return 1
    return 0


def settle() -> None:
    """What is there once a service serves stays: it is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
