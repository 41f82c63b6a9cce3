"""Which handler answers a method: each composed once, behind its concerns; what is not there is refused."""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import call as calls
from nanoclaw_rpc import concerns, health, identity
from nanoclaw_rpc.access import Access
from nanoclaw_rpc.call import Call, Proceed
from nanoclaw_rpc.concerns import Method
from nanoclaw_rpc.credentials import Credentials
from nanoclaw_rpc.deadline import Deadlines
from nanoclaw_telemetry import Telemetry


class Tasks:
    """The streams that are open, so that a stop can end them."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Task[Any], Call] = {}

    def enter(self, call: Call) -> "asyncio.Task[Any] | None":
        """Takes the running task's call in."""
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
        for task, call in list(self._open.items()):
            call.stopping = True
            task.cancel()


class Recorder:
    """Stands in for a server and keeps what the stub's add function registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Registered handlers say the same."""

    def add_registered_method_handlers(self, _service: str, handlers: Mapping[str, Any]) -> None:
        """Takes the handlers."""
        self.handlers.update(handlers)


class Routes(grpc.GenericRpcHandler):
    """The handlers of a server by full method name."""

    REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")

    def __init__(self, credentials: Credentials, telemetry: Telemetry, streams: Tasks) -> None:
        self._credentials = credentials
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
                method, handler, [identity.identify(self._credentials), identity.authorize(method, access[rpc])]
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
                self._handlers[f"/{name}/{rpc}"] = self._compose(
                    Method(name, rpc), handler, [identity.identify(self._credentials)]
                )

    def _compose(self, method: Method, handler: Any, guards: list[concerns.Concern]) -> Any:
        around: list[concerns.Concern] = [
            concerns.tracing(method, self._telemetry),
            concerns.errors(method, self._log),
            concerns.audit(method, self._log),
            self._deadlines,
            *guards,
        ]
        proceed = self._streaming(handler) if handler.response_streaming else _unary(handler)
        for concern in reversed(around):
            proceed = concern(proceed)
        return _handler(proceed, handler)

    def _streaming(self, handler: Any) -> Proceed:
        proceed, streams = _stream(handler), self._streams

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
            identity.identify(self._credentials),
            concerns.audit(method, self._log),
            concerns.errors(method, self._log),
            concerns.tracing(method, self._telemetry),
        ):
            proceed = concern(proceed)
        return _handler(proceed, shape)


def registered(add: Callable[[Any, Any], None], servicer: object) -> dict[str, Any]:
    """The method handlers that a stub's add function registers, by bare name."""
    recorder = Recorder()
    add(servicer, recorder)
    return recorder.handlers


def _handler(proceed: Proceed, shape: Any) -> Any:
    """A grpc handler of the same shape. Requests arrive as bytes and are parsed behind the guards."""

    async def entry(request: Any, context: Any) -> Any:
        call = calls.current_call()
        assert call is not None, "grpc looks a handler up in the task that runs it"
        call.context = context
        return await proceed(request, call)

    if shape.request_streaming:
        if shape.response_streaming:
            return grpc.stream_stream_rpc_method_handler(entry, shape.request_deserializer, None)
        return grpc.stream_unary_rpc_method_handler(entry, shape.request_deserializer, None)
    if shape.response_streaming:
        return grpc.unary_stream_rpc_method_handler(entry, None, None)
    return grpc.unary_unary_rpc_method_handler(entry, None, None)


def _parser(handler: Any) -> Callable[[Any], Any]:
    """Parses a request; a stream of them is parsed by grpc."""
    if handler.request_streaming:
        return lambda requests: requests
    deserialize = handler.request_deserializer

    def parse(body: bytes) -> Any:
        try:
            return deserialize(body)
        except DecodeError:
            raise NanoclawError(
                Kind.INVALID,
                "MALFORMED_REQUEST",
                "the request is not a message of this type",
                next_step="build it from the protos of this version",
            ) from None

    return parse


def _unary(handler: Any) -> Proceed:
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
    parse, serialize = _parser(handler), handler.response_serializer

    async def run(request: Any, call: Call) -> Any:
        return serialize(await behaviour(parse(request), call.context))

    return run


def _stream(handler: Any) -> Proceed:
    behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    parse, serialize = _parser(handler), handler.response_serializer

    async def run(request: Any, call: Call) -> None:
        context = call.context
        responses = behaviour(parse(request), _Writer(context, serialize))
        if inspect.isasyncgen(responses):
            try:
                async for response in responses:
                    await context.write(serialize(response))
            finally:
                await responses.aclose()
        else:
            await responses

    return run


class _Writer:
    """A context whose write serializes, for handlers that write instead of yielding."""

    def __init__(self, context: Any, serialize: Callable[[Any], bytes]) -> None:
        self._context = context
        self._serialize = serialize

    async def write(self, message: Any) -> None:
        """Sends one response."""
        await self._context.write(self._serialize(message))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
