"""A TLS channel that follows its files: once they have changed, new calls go over a new connection made with them."""

import asyncio
import time
from typing import Any

import grpc

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc.handshake import Handshake, channel_credentials
from nanoclaw_rpc.tls import Tls

_LOOK_SECONDS = 0.5

Options = tuple[tuple[str, Any], ...]


class _Connection:
    """One channel of grpc's, whose certificates are those that it was made with, and the calls under way on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._calls = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    def begin(self, call: Any) -> Any:
        """Counts a call until it is done."""
        self._calls += 1
        call.add_done_callback(self._end)
        return call

    def retire(self) -> None:
        """Closes it after its last call: closing it now would cancel them."""
        self._retired = True
        self._close_if_idle()

    @property
    def closed(self) -> bool:
        """Whether it is gone for good."""
        return self._closing is not None and self._closing.done()

    async def close(self, grace: float | None) -> None:
        """Closes it; its calls are cancelled after the grace."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self.channel.close(grace))
        await self._closing

    def _end(self, _call: Any) -> None:
        self._calls -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and self._calls == 0 and self._closing is None:
            self._closing = asyncio.ensure_future(self.channel.close())


class _Method:
    """One method, over whichever connection is the current one."""

    def __init__(self, owner: "SecureChannel", shape: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._owner = owner
        self._shape = shape
        self._arguments = arguments
        self._named = named
        self._connection: _Connection | None = None
        self._invoke: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        connection = self._owner.connection()
        if connection is not self._connection:
            self._invoke = getattr(connection.channel, self._shape)(*self._arguments, **self._named)
            self._connection = connection
        return connection.begin(self._invoke(*arguments, **named))


class SecureChannel(grpc.aio.Channel):
    """A grpc.aio.Channel with mutual TLS to the service `peer`, refusing whoever else answers at the address.

    Files are looked at twice a second at most, when there is something to call.
    """

    def __init__(self, address: str, tls: Tls, peer: str, options: Options) -> None:
        if not peer:
            raise NanoclawError(
                Kind.INTERNAL, "NO_PEER_NAME", f"nobody said which service answers at {address}", next_step="name it"
            )
        self._address = address
        self._options: Options = (*options, ("grpc.ssl_target_name_override", peer))
        self._handshake = Handshake(tls)
        self._material = self._handshake.current()
        self._look_again = time.monotonic() + _LOOK_SECONDS
        self._current = self._connect()
        self._retired: list[_Connection] = []

    def _connect(self) -> _Connection:
        credentials = channel_credentials(self._material)
        return _Connection(grpc.aio.secure_channel(self._address, credentials, options=self._options))

    def connection(self) -> _Connection:
        """The connection for the next call."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _LOOK_SECONDS
            material = self._handshake.current()
            if material is not self._material:
                self._material = material
                self._current.retire()
                self._retired = [one for one in self._retired if not one.closed]
                self._retired.append(self._current)
                self._current = self._connect()
        return self._current

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.aio's."""
        return _Method(self, "unary_unary", arguments, named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.aio's."""
        return _Method(self, "unary_stream", arguments, named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.aio's."""
        return _Method(self, "stream_unary", arguments, named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.aio's."""
        return _Method(self, "stream_stream", arguments, named)

    async def close(self, grace: float | None = None) -> None:
        """Closes it; calls under way are cancelled after the grace."""
        for connection in (self._current, *self._retired):
            await connection.close(grace)

    async def __aenter__(self) -> "SecureChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The current connection's state."""
        return self._current.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another."""
        await self._current.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until it is connected."""
        await self._current.channel.channel_ready()
