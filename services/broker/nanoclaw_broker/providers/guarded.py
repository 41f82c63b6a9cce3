"""An HTTP transport that resolves a name once, checks every address it got, and connects to one that it has checked."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import httpcore
import httpx

from nanoclaw_broker.providers.addresses import Address, AllowList

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as text."""


class NotAllowed(Exception):
    """The host is not on the list, or leads to where nothing may be reached. Nothing was sent."""


async def resolve(host: str, port: int) -> list[str]:
    """Asks the system's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Where httpcore opens its connections."""

    def __init__(self, allow: AllowList, resolve: Resolve = resolve) -> None:
        self._allow = allow
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises NotAllowed; else like any backend."""
        error: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self.addresses(host, port):
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error

    async def addresses(self, host: str, port: int) -> list[Address]:
        """What the host's name stands for now, all of it fit to be reached."""
        entry = self._allow.find(host, port)
        if entry is None:
            raise NotAllowed(f"{host}:{port} is not on the allow-list")
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host.strip("[]"), port)]
        except (OSError, UnicodeError) as failed:
            raise httpcore.ConnectError(f"{host} can't be resolved") from failed
        if self._allow.refuses(entry, found) is not None:
            raise NotAllowed(f"{host} leads to an address that may not be reached")
        return found

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise NotAllowed("no unix sockets")

    async def sleep(self, seconds: float) -> None:
        """As the backend does."""
        await self._inner.sleep(seconds)


class GuardedTransport(httpx.AsyncBaseTransport):
    """One connection, HTTP/1.1, no proxy, no retry; certificates are checked against the name, not the address."""

    def __init__(self, backend: GuardedBackend, tls: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, max_connections=1, network_backend=backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpcore's errors and NotAllowed."""
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Stream(response))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Stream(httpx.AsyncByteStream):
    """httpcore's response as httpx reads it."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_stream():
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
