"""Calls on their way out: one attempt after another where that is safe, and errors raised as the server meant them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.call import current_call
from nanoclaw_rpc.status import from_rpc_error

Metadata = Sequence[tuple[str, str | bytes]]


class Manners(Protocol):
    """What a channel decides for its calls."""

    timeout: float
    attempts: int
    retries: Any

    def headers(self, metadata: Metadata | None) -> Metadata:
        """A call's metadata."""
        ...


class Unary:
    """One unary method."""

    def __init__(self, channel: Manners, method: str, invoke: Any) -> None:
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
            wait=wait_exponential(multiplier=0.05, max=1.0) + wait_random(0, 0.05),
            retry=retry_if_exception(lambda raised: isinstance(raised, NanoclawError) and _again(request, raised)),
            reraise=True,
        )
        return await retrying(attempt)


class ServerStream:
    """One method that streams responses."""

    def __init__(self, channel: Manners, invoke: Any) -> None:
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
    """Seconds for one attempt: never more than the RPC being served has left. Raises DEADLINE when that is nothing.

    grpc itself takes a timeout of 0 for none.
    """
    call = current_call()
    if call is not None and call.deadline is not None:
        allowed = min(allowed, call.deadline - asyncio.get_running_loop().time())
    if allowed <= 0:
        raise NanoclawError(
            Kind.DEADLINE,
            "DEADLINE_EXCEEDED",
            "no time is left to call another service",
            next_step="nothing was sent: ask again, with more time",
        )
    return allowed
