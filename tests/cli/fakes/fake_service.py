"""A stand-in for a service process: serves grpc.health on its socket, and misbehaves when a file tells it to.

`{home}/fake/{name}` holds one word: `dies` (exits at start), `dies-once`, `dies-with-advice`, `deaf` (ignores SIGTERM),
`silent` (never serves).
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


async def serve(name: str) -> None:
    home = Path(os.environ["NANOCLAW_HOME"])
    orders = home / "fake" / name
    order = orders.read_text() if orders.exists() else ""
    if order.startswith("dies"):
        if order == "dies-once":
            orders.unlink()
        advice = "; next step: take another port" if order == "dies-with-advice" else ""
        sys.exit(f"{name}: TAKEN: can't start{advice}" if advice else f"{name} can't start")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if order == "deaf" else stop.set)
    if order == "silent":
        await stop.wait()
        return
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    socket = home / "run" / f"{name}.sock"
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await stop.wait()
    socket.unlink(missing_ok=True)
    await server.stop(0)
