"""The baseline of every speed row: a bare grpc.aio unary echo of bytes, without anything of ours around it.

`python -m bench.echo unix:/path` serves until it is ended by a signal, and prints `ready` once it listens.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

METHOD = "/bench.Echo/Echo"


async def serve(address: str) -> grpc.aio.Server:
    """A started echo server at `unix:path` or `host:port`."""

    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    server.add_insecure_port(address)
    await server.start()
    return server


def caller(channel: grpc.aio.Channel, size: int) -> Callable[[int], Awaitable[object]]:
    """Sends `size` bytes and awaits them back; for bench.load.closed_loop."""
    echo = channel.unary_unary(METHOD)
    body = b"x" * size

    async def call(_number: int) -> object:
        return await echo(body)

    return call


async def main(address: str) -> None:
    """Serves until the process is ended."""
    server = await serve(address)
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
