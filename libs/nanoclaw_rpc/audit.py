"""The audit concern: every RPC leaves a line that says who asked for what, how it ended and why."""

import asyncio
import logging
import time
from typing import Any

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.call import Call, Proceed
from nanoclaw_rpc.concerns import Concern, Method
from nanoclaw_rpc.status import CODES


def audit(method: Method, log: Any) -> Concern:
    """One line per outcome: WARN refusals and conflicts, INFO changes, DEBUG reads and replays."""
    succeeded = log.info if method.mutates else log.debug
    told = log.is_enabled_for(logging.INFO if method.mutates else logging.DEBUG)
    label = method.label

    def wrap(proceed: Proceed) -> Proceed:
        async def audited(request: Any, call: Call) -> Any:
            try:
                response = await proceed(request, call)
            except NanoclawError as error:
                write = log.warning if error.kind in _WARNED else succeeded
                write("rpc", **_told(label, CODES[error.kind].name, call), **_why(error))
                raise
            except asyncio.CancelledError:
                log.debug("rpc", **_told(label, "CANCELLED", call))
                raise
            except Exception:
                log.error("rpc", **_told(label, "INTERNAL", call))
                raise
            if told:
                write = log.debug if call.replayed else succeeded
                write("rpc", **_told(label, "OK", call))
            return response

        return audited

    return wrap


_WARNED = frozenset({Kind.UNAUTHENTICATED, Kind.DENIED, Kind.CONFLICT, Kind.PRECONDITION, Kind.EXHAUSTED})


def _told(label: str, code: str, call: Call) -> dict[str, Any]:
    """What every line says; a note of the servicer's never hides it."""
    told: dict[str, Any] = {f"note_{key}" if key in _TAKEN else key: value for key, value in (call.notes or {}).items()}
    told["rpc"] = label
    told["code"] = code
    caller = call.caller
    if caller is None:
        told["peer"] = call.context.peer()
    else:
        told["principal"] = caller.principal
        if caller.via:
            told["via"] = caller.via
        if caller.attempt:
            told["attempt"] = caller.attempt
    told["took_us"] = int((time.perf_counter() - call.started) * 1e6)
    return told


_TAKEN = frozenset(
    [
        "event",
        "level",
        "time",
        "service",
        "trace_id",
        "span_id",
        "exc_info",
        "exception",
        "rpc",
        "code",
        "principal",
        "via",
        "attempt",
        "peer",
        "took_us",
        "reason",
        "message",
        "violations",
    ]
)


def _why(error: NanoclawError) -> dict[str, Any]:
    why: dict[str, Any] = {"reason": error.reason, "message": error.message}
    if error.violations:
        why["violations"] = [violation.code for violation in error.violations]
    return why
