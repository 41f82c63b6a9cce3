"""What every RPC passes before its servicer: tracing, errors, audit, outermost first; then deadline and identity.

Each concern is a decorator over the next one, composed once per method when the server starts.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.call import Call, Proceed
from nanoclaw_rpc.status import CODES, DETAILS_KEY, to_status
from nanoclaw_telemetry import Telemetry
from nanoclaw_telemetry import context as traces

Concern = Callable[[Proceed], Proceed]

REFLECTION = "grpc.reflection."
"""Its clients show an error's message, and not its details."""


@dataclass(frozen=True, slots=True)
class Method:
    """What is known about a method before any call. service and name as in the proto; mutates: has a request_id."""

    service: str
    name: str
    mutates: bool = False

    @property
    def label(self) -> str:
        """`nanoclaw.x.v1.XService/Method`."""
        return f"{self.service}/{self.name}"


def tracing(method: Method, telemetry: Telemetry) -> Concern:
    """The server span: continues the caller's trace, counts and times the RPC."""
    label = method.label

    def wrap(proceed: Proceed) -> Proceed:
        async def traced(request: Any, call: Call) -> Any:
            traces.enter(call)
            start_ns = time.time_ns() if telemetry.enabled else 0
            call.started = time.perf_counter()
            code = "CANCELLED"
            try:
                response = await proceed(request, call)
                code = "OK" if call.error is None else CODES[call.error.kind].name
                return response
            finally:
                telemetry.rpc.observe(label, code, time.perf_counter() - call.started)
                if start_ns:
                    telemetry.emit(
                        label,
                        call.trace,
                        parent=call.parent,
                        start_ns=start_ns,
                        end_ns=time.time_ns(),
                        attributes=_attributes(call, code),
                        kind="server",
                        error="" if code == "OK" else code,
                    )

        return traced

    return wrap


def _attributes(call: Call, code: str) -> dict[str, str | int | bool]:
    attributes: dict[str, str | int | bool] = {f"nanoclaw.{key}": value for key, value in (call.notes or {}).items()}
    attributes["rpc.system"] = "grpc"
    attributes["rpc.grpc.status_code"] = code
    if call.caller is not None:
        attributes["nanoclaw.principal"] = call.caller.principal
        if call.caller.attempt:
            attributes["nanoclaw.attempt"] = call.caller.attempt
    if call.error is not None:
        attributes["nanoclaw.reason"] = call.error.reason
    return attributes


def errors(method: Method, log: Any) -> Concern:
    """Turns whatever is raised into a status: ours with its identity, others into an opaque id whose text is logged."""

    def wrap(proceed: Proceed) -> Proceed:
        async def translated(request: Any, call: Call) -> Any:
            try:
                return await proceed(request, call)
            except NanoclawError as error:
                seen = opaque(error, method, log) if error.kind is Kind.INTERNAL else error
                refuse(call, seen, in_words=method.service.startswith(REFLECTION))
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if call.stopping and task is not None:
                    task.uncancel()
                    refuse(call, stopping())
                elif task is not None and task.cancelling():
                    raise
                else:  # something inside was cancelled, not this call
                    refuse(call, opaque(error, method, log))
            except NotImplementedError:  # what the stub's base class raises
                refuse(call, _not_implemented(method.name))
            except Exception as error:
                refuse(call, opaque(error, method, log))
            return None

        return translated

    return wrap


def refuse(call: Call, error: NanoclawError, *, in_words: bool = False) -> None:
    """Sets the call's status to the error's; what is returned afterwards is not sent.

    in_words: the message says the next step too, for clients that show nothing else.
    """
    call.error = error
    status = to_status(error)
    if in_words:
        status.message = f"{status.message}: {error.next_step}"
    call.context.set_code(CODES[error.kind])
    call.context.set_details(status.message)
    call.context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))


def opaque(error: BaseException, method: Method, log: Any) -> NanoclawError:
    """What a caller may learn of a defect: an id, under which the log has the rest."""
    error_id = uuid.uuid4().hex
    log.error("internal error", rpc=method.label, error_id=error_id, error=repr(error), exc_info=error)
    return NanoclawError(
        Kind.INTERNAL,
        "INTERNAL",
        f"internal error {error_id}",
        next_step="report the id; the service's log has the rest under it",
        error_id=error_id,
    )


def _not_implemented(name: str) -> NanoclawError:
    return NanoclawError(
        Kind.UNIMPLEMENTED,
        "NOT_IMPLEMENTED",
        f"{name} is not served here",
        next_step="ask the server's reflection what is, or a later version",
    )


def stopping() -> NanoclawError:
    """What a stream is ended with when the server stops."""
    return NanoclawError(
        Kind.UNAVAILABLE, "STOPPING", "the service is stopping", next_step="connect again from your last cursor"
    )


def default_log() -> Any:
    """The logger of the RPC layer."""
    return structlog.get_logger("nanoclaw.rpc").bind()
