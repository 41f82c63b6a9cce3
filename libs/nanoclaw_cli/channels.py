"""Stubs of the running services, with the operator's credential; and lists read page by page."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceStub
from nanoclaw.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from nanoclaw.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from nanoclaw.governance.v1.governance_pb2_grpc import GovernanceServiceStub
from nanoclaw.runtime.v1.runtime_pb2_grpc import RuntimeServiceStub
from nanoclaw_cli.invocation import current
from nanoclaw_cli.output import say_warning
from nanoclaw_cli.services import SERVICES
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import connect

if TYPE_CHECKING:  # only the type stubs have these
    from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceAsyncStub
    from nanoclaw.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceAsyncStub
    from nanoclaw.gateway.v1.gateway_pb2_grpc import GatewayServiceAsyncStub
    from nanoclaw.governance.v1.governance_pb2_grpc import GovernanceServiceAsyncStub
    from nanoclaw.runtime.v1.runtime_pb2_grpc import RuntimeServiceAsyncStub

PAGE = 500


@asynccontextmanager
async def _stub(name: str, make: Callable[[Any], Any]) -> AsyncIterator[Any]:
    invocation = current()
    service = next(service for service in SERVICES if service.name == name)
    if not invocation.at and not service.socket(invocation.home).exists():
        raise NanoclawError(
            Kind.UNAVAILABLE,
            "NOT_RUNNING",
            f"{name} is not running for {invocation.home}",
            next_step="start the services with `nanoclaw up`, or name another home with --home",
        )
    tls = invocation.tls
    if tls is None and not invocation.token_file.exists():
        raise NanoclawError(
            Kind.UNAUTHENTICATED,
            "NO_TOKEN",
            f"there is no token of operator {invocation.operator!r} at {invocation.token_file}",
            next_step="make one with `nanoclaw operator add`, or name another operator with --as",
        )
    address, token = invocation.target(service), invocation.token_file
    async with connect(address, token_file=token, tls=tls, peer=service.name) as channel:
        yield make(channel)


@asynccontextmanager
async def governance() -> "AsyncIterator[GovernanceServiceAsyncStub]":
    """Governance's. Raises NOT_RUNNING, NO_TOKEN."""
    async with _stub("governance", GovernanceServiceStub) as stub:
        yield stub


@asynccontextmanager
async def broker() -> "AsyncIterator[BrokerServiceAsyncStub]":
    """The broker's. Raises NOT_RUNNING, NO_TOKEN."""
    async with _stub("broker", BrokerServiceStub) as stub:
        yield stub


@asynccontextmanager
async def runtime() -> "AsyncIterator[RuntimeServiceAsyncStub]":
    """The runtime's, which the broker serves. Raises NOT_RUNNING, NO_TOKEN."""
    async with _stub("broker", RuntimeServiceStub) as stub:
        yield stub


@asynccontextmanager
async def dispatcher() -> "AsyncIterator[DispatcherServiceAsyncStub]":
    """The dispatcher's. Raises NOT_RUNNING, NO_TOKEN."""
    async with _stub("dispatcher", DispatcherServiceStub) as stub:
        yield stub


@asynccontextmanager
async def gateway() -> "AsyncIterator[GatewayServiceAsyncStub]":
    """The gateway's. Raises NOT_RUNNING, NO_TOKEN."""
    async with _stub("gateway", GatewayServiceStub) as stub:
        yield stub


async def pages(call: Callable[[Any], Any], request: Any, field: str, limit: int) -> list[Any]:
    """Up to `limit` items of a list RPC (0: all), read page by page; `field` is the response's list.

    Says so beside the answer where there are more.
    """
    found: list[Any] = []
    while True:
        request.page_size = min(PAGE, limit - len(found)) if limit else PAGE
        response = await call(request)
        found.extend(getattr(response, field))
        if not response.next_page_token:
            return found
        if limit and len(found) >= limit:
            say_warning(f"there are more than these {limit}; --limit 0 shows all")
            return found
        request.page_token = response.next_page_token
