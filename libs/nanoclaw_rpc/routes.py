"""Which handler answers a method: each composed once, behind its concerns; what is not there is refused."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import call as calls
from nanoclaw_rpc import concerns, health, identity
from nanoclaw_rpc.access import Access
from nanoclaw_rpc.audit import audit
from nanoclaw_rpc.call import Call, Proceed
from nanoclaw_rpc.concerns import Method
from nanoclaw_rpc.credentials import Credentials
from nanoclaw_rpc.deadline import Deadlines
from nanoclaw_rpc.handlers import handler_of, registered, stream, unary
from nanoclaw_telemetry import Telemetry

if TYPE_CHECKING:
    from nanoclaw_rpc.peers import Peers


class Tasks:
    """The streams that are open, so that a stop can end them."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Task[Any], Call] = {}
        self._stopping = False

    def enter(self, call: Call) -> "asyncio.Task[Any] | None":
        """Takes the running task's call in. Raises STOPPING after a stop: one that was under way would hold it up."""
        if self._stopping:
            raise concerns.stopping()
        task = asyncio.current_task()
        if task is not None:
            self._open[task] = call
        return task

    def leave(self, task: "asyncio.Task[Any] | None") -> None:
        """Lets it go."""
        if task is not None:
            self._open.pop(task, None)

    def stop(self) -> None:
        """Ends all of them with UNAVAILABLE STOPPING."""
        self._stopping = True
        for task, call in list(self._open.items()):
            call.stopping = True
            task.cancel()


class Routes(grpc.GenericRpcHandler):
    """The handlers of a server by full method name."""

    REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")

    def __init__(
        self, credentials: Credentials, telemetry: Telemetry, streams: Tasks, peers: "Peers | None" = None
    ) -> None:
        self._identify = identity.identify(credentials, peers)
        self._telemetry = telemetry
        self._streams = streams
        self._log = concerns.default_log()
        self._handlers: dict[str, Any] = {}
        self._deadlines = Deadlines()
        self._unknown = self._refusing()

    def service(self, handler_call_details: Any) -> Any:
        """What grpc asks, in the task of each RPC: the handler of its method."""
        calls.enter(Call(handler_call_details.invocation_metadata))
        return self._handlers.get(handler_call_details.method, self._unknown)

    def add(
        self,
        name: str,
        add: Callable[[Any, Any], None],
        servicer: object,
        access: Mapping[str, frozenset[Access]],
    ) -> None:
        """Composes a service's methods. Raises UNLISTED_RPC when the access table and the proto differ."""
        handlers = registered(add, servicer)
        missing, strange = sorted(handlers.keys() - access.keys()), sorted(access.keys() - handlers.keys())
        if missing or strange:
            raise NanoclawError(
                Kind.INTERNAL,
                "UNLISTED_RPC",
                f"{name}: not in the access table {missing}, only there {strange}",
                next_step="list every RPC of the proto in access.py, and no other",
            )
        descriptor = descriptor_pool.Default().FindServiceByName(name)
        for rpc, handler in handlers.items():
            request = descriptor.methods_by_name[rpc].input_type
            method = Method(name, rpc, mutates="request_id" in request.fields_by_name)
            self._handlers[f"/{name}/{rpc}"] = self._compose(
                method, handler, [self._identify, identity.authorize(method, access[rpc])]
            )

    def add_health(self, add: Callable[[Any, Any], None], servicer: health.Health) -> None:
        """Health, for everybody."""
        handlers = registered(add, servicer)
        for rpc in servicer.METHODS:
            self._handlers[f"/{health.NAME}/{rpc}"] = self._compose(Method(health.NAME, rpc), handlers[rpc], [])

    def add_reflection(self, add: Callable[[Any, Any], None], servicer: object) -> None:
        """Reflection, for any credential; v1 is v1alpha under another name."""
        for rpc, handler in registered(add, servicer).items():
            for name in self.REFLECTION:
                self._handlers[f"/{name}/{rpc}"] = self._compose(Method(name, rpc), handler, [self._identify])

    def _compose(self, method: Method, handler: Any, guards: list[concerns.Concern]) -> Any:
        around: list[concerns.Concern] = [
            concerns.tracing(method, self._telemetry),
            concerns.errors(method, self._log),
            audit(method, self._log),
            self._deadlines,
            *guards,
        ]
        proceed = self._streaming(handler) if handler.response_streaming else unary(handler)
        for concern in reversed(around):
            proceed = concern(proceed)
        return handler_of(proceed, handler)

    def _streaming(self, handler: Any) -> Proceed:
        proceed, streams = stream(handler), self._streams

        async def stoppable(request: Any, call: Call) -> None:
            task = streams.enter(call)
            try:
                await proceed(request, call)
            finally:
                streams.leave(task)

        return stoppable

    def _refusing(self) -> Any:
        method = Method("unknown", "Unknown")

        async def refuse(_request: Any, _call: Call) -> Any:
            raise NanoclawError(
                Kind.UNIMPLEMENTED, "UNKNOWN_RPC", "no such RPC here", next_step="ask the server's reflection"
            )

        shape: Any = grpc.stream_stream_rpc_method_handler(refuse)
        proceed: Proceed = refuse
        for concern in (
            self._identify,
            audit(method, self._log),
            concerns.errors(method, self._log),
            concerns.tracing(method, self._telemetry),
        ):
            proceed = concern(proceed)
        return handler_of(proceed, shape)
