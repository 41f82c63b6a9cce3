"""The client half: a channel for typed stubs that brings the credential and the trace, and raises NanoclawErrors."""

import time
from pathlib import Path
from typing import Any

import grpc

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.outgoing import Metadata, ServerStream, Unary
from nanoclaw_rpc.server import MESSAGE_BYTES, METADATA_BYTES
from nanoclaw_rpc.tls import Tls
from nanoclaw_telemetry import Telemetry
from nanoclaw_telemetry.context import running_trace

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.enable_retries", 0),  # ours, once
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    # The other end is on this machine and comes back soon: the default backs off to two minutes. The one called min is
    # no pause, but how long making a connection may take; what is refused is tried again after the pause all the same.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 3000),
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
    tls: Tls | None = None,
    peer: str = "",
) -> grpc.aio.Channel:
    """A channel to `unix:path` or `host:port`, for typed stubs; close it when done.

    With `tls` a `host:port` is dialled with the certificate, which then is the credential, and must be the service
    `peer`, by its name; unix sockets stay as they are. Raises CERTIFICATE_UNREADABLE, CERTIFICATE_OF_ANOTHER.

    Else every call brings the bearer token of the file (read again when it changes). Calls continue the current trace.
    Unary calls are awaited directly; each attempt gets `timeout` seconds unless told, less if the RPC being served has
    less left. UNAVAILABLE is tried again, up to `attempts` times, and DEADLINE where the request carries a request_id;
    the same request, the same metadata. What fails raises NanoclawError. Streams have no default timeout and no retry:
    their readers go on from their cursor.
    """
    retries = telemetry.counter("nanoclaw_rpc_retries", "calls tried again", ["method"]) if telemetry else None
    if tls is None or address.startswith("unix:"):
        channel, token = grpc.aio.insecure_channel(address, options=OPTIONS), Token(token_file)
    else:
        from nanoclaw_rpc.secure import SecureChannel  # loads a library that is needed nowhere else

        channel, token = SecureChannel(address, tls, peer, OPTIONS), Token(None)
    return Channel(channel, token, timeout, max(1, attempts), retries)


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
