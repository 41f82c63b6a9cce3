"""grpc.health.v1: whether a service serves, for whoever asks; set from the loop's thread without waiting."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from nanoclaw_core.errors import not_found

NAME = "grpc.health.v1.Health"


class Health(health_pb2_grpc.HealthServicer):
    """The servicer. Check and Watch; an unknown service is NOT_FOUND to the one and SERVICE_UNKNOWN to the other."""

    METHODS = ("Check", "Watch")

    def __init__(self, services: Iterable[str]) -> None:
        not_serving: int = health_pb2.HealthCheckResponse.NOT_SERVING
        self._status = dict.fromkeys(["", *services], not_serving)
        self._changed = asyncio.Event()

    def set(self, serving: bool) -> None:
        """The status of all services from now on."""
        status: int = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._status = dict.fromkeys(self._status, status)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, _context: Any) -> health_pb2.HealthCheckResponse:
        """The status now."""
        status = self._status.get(request.service)
        if status is None:
            known = ", ".join(filter(None, self._status))
            raise not_found("service", request.service, "service", f"name one of {known}, or leave it out")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and whenever it changes."""
        last = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            await changed.wait()
