"""Runs the dispatcher: settings, database, runtimes, engine, servicer, serve."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial

from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.gateway.v1 import gateway_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.clock import to_text, utc_now
from nanoclaw_core.ids import new_ulid
from nanoclaw_dispatcher import groups
from nanoclaw_dispatcher.access import ACCESS
from nanoclaw_dispatcher.engine import Engine
from nanoclaw_dispatcher.governance import Governance, Mailboxes
from nanoclaw_dispatcher.means import Means
from nanoclaw_dispatcher.presence import Presence
from nanoclaw_dispatcher.relays import Relays
from nanoclaw_dispatcher.runtime import Runtime
from nanoclaw_dispatcher.runtimes import built_in
from nanoclaw_dispatcher.servicer import Dispatcher
from nanoclaw_dispatcher.settings import Settings, load
from nanoclaw_dispatcher.tables import SLICE
from nanoclaw_rpc import Credentials, Server, ServiceSpec, connect, serve_until_signalled
from nanoclaw_rpc.process import exit_code, run_process
from nanoclaw_store import Database
from nanoclaw_telemetry import Telemetry, setup

NAME = "nanoclaw.dispatcher.v1.DispatcherService"


async def run(
    settings: Settings,
    telemetry: Telemetry,
    *,
    ready: Callable[[], None] | None = None,
    runtimes: Mapping[str, Runtime] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, or until cancelled; agents go on running. runtimes: others than the built-in."""
    credentials = Credentials.open(settings.secrets_folder, own="service:dispatcher")
    database = await Database.open(settings.home / "store" / "nanoclaw.db", SLICE)
    token = credentials.token_file("service:dispatcher")
    dial = partial(connect, token_file=token, telemetry=telemetry, attempts=2, tls=settings.tls)
    governance = dial(settings.governance_address, peer="governance")
    gateway = dial(settings.gateway_address, peer="gateway")
    broker = dial(settings.broker_address, peer="broker")
    configured = groups.load(settings.home / "config" / "groups.toml", runtime=settings.runtime)
    if runtimes is None:
        runtimes = built_in(settings, configured)
    instance = new_ulid().lower()
    presence = Presence(settings.home / "run", instance)
    means = Means(
        database=database,
        governance=Governance(governance_pb2_grpc.GovernanceServiceStub(governance)),
        mailboxes=Mailboxes(gateway_pb2_grpc.GatewayServiceStub(gateway)),
        relays=Relays(broker_pb2_grpc.BrokerServiceStub(broker)),
        runtimes=runtimes,
        groups=configured,
        instance=instance,
        limits=settings.limits,
        telemetry=telemetry,
        alive=presence.alive,
    )
    engine = Engine(means)
    servicer = Dispatcher(engine, heartbeat_seconds=settings.heartbeat_seconds, started_at=to_text(utc_now()))
    server = Server(
        listen=settings.addresses,
        services=[ServiceSpec(NAME, dispatcher_pb2_grpc.add_DispatcherServiceServicer_to_server, servicer, ACCESS)],
        credentials=credentials,
        telemetry=telemetry,
        drain_seconds=settings.drain_seconds,
        allow_remote=settings.allow_remote,
        tls=settings.tls,
    )
    if settings.metrics:
        telemetry.serve_metrics(settings.metrics)
    try:
        for runtime in runtimes.values():
            await runtime.open()
        await engine.start()
        presence.sweep()
        await serve_until_signalled(server, ready=ready)
    finally:
        await engine.stop()
        for runtime in runtimes.values():
            await runtime.close()
        await governance.close()
        await gateway.close()
        await broker.close()
        await database.close()
        presence.leave()
        telemetry.shutdown()


def main() -> int:
    """The entry point; the exit code."""
    return exit_code("dispatcher", _serve)


def _serve() -> None:
    settings, telemetry = load(os.environ), setup("dispatcher", os.environ)
    run_process(lambda ready: run(settings, telemetry, ready=ready))


if __name__ == "__main__":
    sys.exit(main())
