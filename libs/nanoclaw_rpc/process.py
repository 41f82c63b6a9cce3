"""The process of a service: its event loop, and a garbage collector that knows what stays."""

import gc
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

YOUNG = 10_000
"""Objects made, less those freed, until the youngest are looked through; Python's own 700 are a few requests."""

Serve = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""A service's run, given what it calls once it serves."""


def run_process(serve: Serve) -> None:
    """Runs a service to its end. Raises what it raises."""
    uvloop.run(serve(settle))


def settle() -> None:
    """What is there once a service serves stays: it is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
