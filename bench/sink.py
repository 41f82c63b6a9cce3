"""A collector that takes spans and forgets them, in a process of its own: `python -m bench.sink 127.0.0.1:port`."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from bench.system import CLEAN


async def serve(address: str) -> None:
    """Answers every Export at once, unread."""

    async def export(_request: bytes, _context: Any) -> bytes:
        return b""

    server = grpc.aio.server()
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


@asynccontextmanager
async def running() -> AsyncIterator[str]:
    """The sink in a process; answers the endpoint for OTEL_EXPORTER_OTLP_ENDPOINT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.sink", address), stdout=asyncio.subprocess.PIPE, env=CLEAN
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield f"http://{address}"
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
