"""Between grpc's handlers and ours: what a stub registers, as functions from request bytes to response bytes."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import call as calls
from nanoclaw_rpc.call import Call, Proceed


class Recorder:
    """Stands in for a server and keeps what the stub's add function registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Registered handlers say the same."""

    def add_registered_method_handlers(self, _service: str, handlers: Mapping[str, Any]) -> None:
        """Takes the handlers."""
        self.handlers.update(handlers)


def registered(add: Callable[[Any, Any], None], servicer: object) -> dict[str, Any]:
    """The method handlers that a stub's add function registers, by bare name."""
    recorder = Recorder()
    add(servicer, recorder)
    return recorder.handlers


def handler_of(proceed: Proceed, shape: Any) -> Any:
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


def unary(handler: Any) -> Proceed:
    """The innermost step of a method with one response: parses, calls the servicer, serializes."""
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
    parse, serialize = _parser(handler), handler.response_serializer

    async def run(request: Any, call: Call) -> Any:
        return serialize(await behaviour(parse(request), call.context))

    return run


def stream(handler: Any) -> Proceed:
    """The same of a method that streams responses: they are written to the call's context."""
    behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    parse, serialize = _parser(handler), handler.response_serializer

    async def run(request: Any, call: Call) -> None:
        writer = _Writer(call.context, serialize)
        responses = behaviour(parse(request), writer)
        if inspect.isasyncgen(responses):
            try:
                async for response in responses:
                    await writer.write(response)
            finally:
                await responses.aclose()
        else:
            await responses

    return run


_FIRST_SECONDS = 1.0
"""How long a cancelled stream waits for its first message to be gone."""


class _Writer:
    """A context whose write serializes, for handlers that write instead of yielding."""

    def __init__(self, context: Any, serialize: Callable[[Any], bytes]) -> None:
        self._context = context
        self._serialize = serialize
        self._begun = False

    async def write(self, message: Any) -> None:
        """Sends one response."""
        writing = self._context.write(self._serialize(message))
        if self._begun:
            await writing
        else:
            await _whole(writing)
            self._begun = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


async def _whole(writing: Awaitable[None]) -> None:
    """Sees the first write through though its task is cancelled: the metadata go with it, and while they are on their
    way grpc can't send a status, and would keep the call open for ever."""
    sending = asyncio.ensure_future(writing)
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait({sending}, timeout=_FIRST_SECONDS)
        raise
