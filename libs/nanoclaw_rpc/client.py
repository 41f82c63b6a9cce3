"""The client half: a channel for typed stubs that brings the credential and the trace, and raises NanoclawErrors."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.call import current_call
from nanoclaw_rpc.server import MESSAGE_BYTES, METADATA_BYTES
from nanoclaw_rpc.status import from_rpc_error
from nanoclaw_telemetry import Telemetry
from nanoclaw_telemetry.context import running_trace

Metadata = Sequence[tuple[str, str | bytes]]

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.enable_retries", 0),  # ours, once
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    # The other end is on this machine and comes back soon: the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


_LOOK_SECONDS = 0.05


def on_behalf(group: str, attempt: str = "") -> tuple[tuple[str, str], ...]:
    """Metadata with which the gateway, and nobody else, attests the group and attempt that a request came from."""
    if attempt:
        return (("nanoclaw-group", group), ("nanoclaw-attempt", attempt))
    return (("nanoclaw-group", group),)


def connect(
    address: str,
    *,
    token_file: Path | None = None,
    telemetry: Telemetry | None = None,
    timeout: float = 5.0,
    attempts: int = 5,
) -> grpc.aio.Channel:
    """A channel to `unix:path` or `host:port`, for typed stubs; close it when done.

    Every call brings the bearer token of the file (read again when it changes) and continues the current trace. Unary
    calls are awaited directly; each attempt gets `timeout` seconds unless told, less if the RPC being served has less
    left. UNAVAILABLE is tried again, up to `attempts` times, and DEADLINE where the request carries a request_id; the
    same request, the same metadata. What fails raises NanoclawError. Streams have no default timeout and no retry:
    their readers go on from their cursor.
    """
    retries = telemetry.counter("nanoclaw_rpc_retries", "calls tried again", ["method"]) if telemetry else None
    return Channel(
        grpc.aio.insecure_channel(address, options=OPTIONS), Token(token_file), timeout, max(1, attempts), retries
    )


class Token:
    """The authorization of a token file, as metadata."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._look_again = 0.0
        self._stamp: tuple[int, int, int] | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The header, none without a file. Raises UNAUTHENTICATED TOKEN_UNREADABLE."""
        now = time.monotonic()
        if now < self._look_again or self._path is None:
            return self._metadata
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp != self._stamp:
                token = self._path.read_text().strip()
                if not token or not token.isascii() or not token.isprintable():
                    raise ValueError("not a token")
                self._metadata = (("authorization", f"Bearer {token}"),)
                self._stamp = stamp
        except (OSError, ValueError):
            raise NanoclawError(
                Kind.UNAUTHENTICATED,
                "TOKEN_UNREADABLE",
                f"no token can be read from {self._path}",
                next_step="name a token file that you may read",
            ) from None
        self._look_again = now + _LOOK_SECONDS
        return self._metadata


class Channel(grpc.aio.Channel):
    """A grpc.aio.Channel with our manners."""

    def __init__(self, channel: grpc.aio.Channel, token: Token, timeout: float, attempts: int, retries: Any) -> None:
        self._channel = channel
        self.token = token
        self.timeout = timeout
        self.attempts = attempts
        self.retries = retries

    def headers(self, metadata: Metadata | None) -> Metadata:
        """A call's metadata."""
        headers: Metadata = self.token.metadata()
        trace = running_trace()
        if trace is not None:
            headers = (*headers, ("traceparent", trace.traceparent))
        return (*headers, *metadata) if metadata else headers

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable to be awaited."""
        return Unary(self, method, self._channel.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable to be iterated."""
        return ServerStream(self, self._channel.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Bare: none of our services streams requests."""
        return self._channel.stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable to be iterated: reflection."""
        return ServerStream(self, self._channel.stream_stream(method, *args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel; calls under way are cancelled after the grace."""
        await self._channel.close(grace)

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The connection's state."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until it is connected."""
        await self._channel.channel_ready()


class Unary:
    """One unary method."""

    def __init__(self, channel: Channel, method: str, invoke: Any) -> None:
        self._channel = channel
        self._method = method
        self._invoke = invoke

    async def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Metadata | None = None, **options: Any
    ) -> Any:
        """The response. Raises NanoclawError."""
        channel = self._channel
        headers = channel.headers(metadata)
        allowed = channel.timeout if timeout is None else timeout
        try:
            return await self._invoke(request, timeout=_left(allowed), metadata=headers, **options)
        except grpc.aio.AioRpcError as failed:
            error = from_rpc_error(failed)
        if channel.attempts <= 1 or not _again(request, error):
            raise error
        return await self._retry(request, allowed, headers, options, error)

    async def _retry(
        self, request: Any, allowed: float, headers: Metadata, options: dict[str, Any], first: NanoclawError
    ) -> Any:
        """The later attempts; the first is told as failed, so that a wait comes before the second."""
        failure: NanoclawError | None = first

        async def attempt() -> Any:
            nonlocal failure
            if failure is not None:
                told, failure = failure, None
                raise told
            if self._channel.retries is not None:
                self._channel.retries.labels(self._method).inc()
            try:
                return await self._invoke(request, timeout=_left(allowed), metadata=headers, **options)
            except grpc.aio.AioRpcError as failed:
                raise from_rpc_error(failed) from None

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._channel.attempts),
            wait=wait_exponential_jitter(initial=0.05, max=1.0, jitter=0.05),
            retry=retry_if_exception(lambda raised: isinstance(raised, NanoclawError) and _again(request, raised)),
            reraise=True,
        )
        return await retrying(attempt)


class ServerStream:
    """One method that streams responses."""

    def __init__(self, channel: Channel, invoke: Any) -> None:
        self._channel = channel
        self._invoke = invoke

    def __call__(
        self, request: Any = None, *, timeout: float | None = None, metadata: Metadata | None = None, **options: Any
    ) -> "Stream":
        """The stream of responses."""
        return Stream(self._invoke(request, timeout=timeout, metadata=self._channel.headers(metadata), **options))


class Stream:
    """Responses as they come; iterate, or read until grpc.aio.EOF. Raises NanoclawError.

    `async with` ends the call when the block is left; otherwise cancel it when you stop reading before its end.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._responses: AsyncIterator[Any] | None = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        if self._responses is None:
            self._responses = aiter(self._call)
        try:
            return await anext(self._responses)
        except grpc.aio.AioRpcError as failed:
            raise from_rpc_error(failed) from None

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    async def read(self) -> Any:
        """The next response, grpc.aio.EOF at the end."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as failed:
            raise from_rpc_error(failed) from None

    async def wait_for_connection(self) -> None:
        """Waits until the server has accepted the call."""
        try:
            await self._call.wait_for_connection()
        except grpc.aio.AioRpcError as failed:
            raise from_rpc_error(failed) from None

    def cancel(self) -> bool:
        """Ends the call; False if it has ended."""
        return bool(self._call.cancel())

    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self._call.done())


def _again(request: Any, error: NanoclawError) -> bool:
    if error.kind is Kind.UNAVAILABLE:
        return True
    return error.kind is Kind.DEADLINE and bool(getattr(request, "request_id", ""))


def _left(allowed: float) -> float:
    """Seconds for one attempt: never more than the RPC being served has left."""
    call = current_call()
    if call is None or call.deadline is None:
        return allowed
    return max(0.0, min(allowed, call.deadline - asyncio.get_running_loop().time()))
