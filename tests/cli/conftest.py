"""The command in this process, and far sides that record what it asks of them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from nanoclaw.broker.v1 import broker_pb2, broker_pb2_grpc
from nanoclaw.dispatcher.v1 import dispatcher_pb2, dispatcher_pb2_grpc
from nanoclaw.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2, governance_pb2_grpc
from nanoclaw.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from nanoclaw_cli.__main__ import main
from nanoclaw_cli.services import SERVICES
from nanoclaw_rpc import Access, Credentials, Server, ServiceSpec, current_caller

STUBS = {
    "governance": (governance_pb2, governance_pb2_grpc),
    "broker": (broker_pb2, broker_pb2_grpc),
    "dispatcher": (dispatcher_pb2, dispatcher_pb2_grpc),
    "gateway": (gateway_pb2, gateway_pb2_grpc),
    "runtime": (runtime_pb2, runtime_pb2_grpc),
}


@dataclass
class FarSide:
    """All four services: they record each request and give the answer set for the method, else an empty one.

    An answer may be a message, an error to raise, a list of messages (a stream, or one answer after the other), or a
    function of the request.
    """

    asked: list[tuple[str, Any]] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    def requests(self, method: str) -> list[Any]:
        """The requests of one method."""
        return [request for name, request in self.asked if name == method]

    def spec(self, name: str) -> ServiceSpec:
        """One of the services."""
        messages, stubs = STUBS[name]
        service = next(iter(messages.DESCRIPTOR.services_by_name.values()))
        servicer = type(
            f"Recording{service.name}", (), {method.name: self._method(method) for method in service.methods}
        )
        add = getattr(stubs, f"add_{service.name}Servicer_to_server")
        access = {method.name: frozenset({Access.ADMIN}) for method in service.methods}
        return ServiceSpec(service.full_name, add, servicer(), access)

    def _method(self, method: Any) -> Any:
        response = method.output_type._concrete_class

        def answer(request: Any) -> Any:
            self.asked.append((method.name, request))
            self.callers.append(current_caller().principal)
            found = self.answers.get(method.name, response())
            found = found(request) if callable(found) else found
            if isinstance(found, Exception):
                raise found
            return found

        async def unary(servicer: Any, request: Any, context: Any) -> Any:
            found = answer(request)
            return found.pop(0) if isinstance(found, list) else found

        async def stream(servicer: Any, request: Any, context: Any) -> AsyncIterator[Any]:
            for item in answer(request):
                yield item

        return stream if method.server_streaming else unary


@pytest.fixture
def quiet() -> None:
    """The far sides run in this process; their log lines are not the command's output. No logger keeps that."""
    nothing = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=nothing, cache_logger_on_first_use=False)


@pytest.fixture
async def far_side(quiet: None, home: Path, credentials: Credentials) -> AsyncIterator[FarSide]:
    """Serves all four on the home's sockets."""
    far_side = FarSide()
    servers = []
    for service in SERVICES:
        names = (service.name, "runtime") if service.name == "broker" else (service.name,)
        specs = [far_side.spec(name) for name in names]
        server = Server(listen=[service.target(home)], services=specs, credentials=credentials, drain_seconds=0.2)
        await server.start()
        server.set_serving(True)
        servers.append(server)
    yield far_side
    for server in servers:
        await server.stop()


@dataclass(frozen=True)
class Ran:
    """What a run of the command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its JSON."""
        return json.loads(self.out)


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
def nanoclaw(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`await nanoclaw("task", "list")` runs the command over the home, in a thread beside the servers' loop."""
    monkeypatch.delenv("COLUMNS", raising=False)

    async def run(*arguments: str) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, ["--home", str(home), *arguments])
        out, err = capfd.readouterr()
        return Ran(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return run
