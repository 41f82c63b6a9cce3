"""Deadlines: a handler is ended a little before its caller gives up, so that there is time left to say so."""

import asyncio
from typing import Any

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.call import Call, Proceed

_REPORT_SECONDS, _REPORT_SHARE = 0.25, 0.2  # what a handler leaves for reporting: the smaller of the two


class Deadlines:
    """The calls that have one, under a single timer.

    A timer per call costs more than all other concerns together. Callers mostly allow the same time, so a new call's
    deadline mostly lies behind the timer that is already set, and nothing is to be done for it.
    """

    def __init__(self) -> None:
        self._open: dict[asyncio.Task[Any], Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    def __call__(self, proceed: Proceed) -> Proceed:
        """The concern. Raises DEADLINE_EXCEEDED."""

        async def bounded(request: Any, call: Call) -> Any:
            remaining = call.context.time_remaining()
            task = asyncio.current_task()
            if remaining is None or task is None:
                return await proceed(request, call)
            loop = task.get_loop()
            call.deadline = due = loop.time() + remaining - min(_REPORT_SECONDS, remaining * _REPORT_SHARE)
            self._open[task] = call
            if due < self._due:
                self._set(loop, due)
            try:
                return await proceed(request, call)
            except asyncio.CancelledError:
                if not call.expired or task.uncancel():
                    raise
                raise NanoclawError(
                    Kind.DEADLINE,
                    "DEADLINE_EXCEEDED",
                    f"no answer within the {remaining:.3f} s that the caller allowed",
                    next_step="whether it happened is unknown: read, or send the same request_id again",
                ) from None
            finally:
                del self._open[task]
                call.deadline = None  # a task that outlives the call is not bound by it

        return bounded

    def _set(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = loop.call_at(due, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._due = None, float("inf")
        now = loop.time()
        following = float("inf")
        for task, call in self._open.items():
            due = call.deadline
            if due is None or call.expired:
                continue
            if due <= now:
                call.expired = True
                task.cancel()
            else:
                following = min(following, due)
        if following < float("inf"):
            self._set(loop, following)
