"""Runs the governance service: settings, database, servicer, serve."""

import os
import sys
from collections.abc import Callable

from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_core.clock import to_text, utc_now
from nanoclaw_governance.access import ACCESS
from nanoclaw_governance.servicer import Governance
from nanoclaw_governance.settings import Settings, load
from nanoclaw_governance.tables import SLICE
from nanoclaw_rpc import Credentials, Server, ServiceSpec, connect, serve_until_signalled
from nanoclaw_rpc.process import exit_code, run_process
from nanoclaw_store import Database
from nanoclaw_telemetry import Telemetry, setup

NAME = "nanoclaw.governance.v1.GovernanceService"


async def run(settings: Settings, telemetry: Telemetry, *, ready: Callable[[], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, or until cancelled."""
    credentials = Credentials.open(settings.secrets_folder, own="service:governance")
    database = await Database.open(settings.home / "store" / "nanoclaw.db", SLICE)
    broker = connect(
        settings.broker_address,
        token_file=credentials.token_file("service:governance"),
        telemetry=telemetry,
        timeout=settings.broker_seconds,
        attempts=1,
        tls=settings.tls,
        peer="broker",
    )
    servicer = Governance(
        database,
        settings.policy,
        telemetry,
        broker_pb2_grpc.BrokerServiceStub(broker).ListCalls,
        heartbeat_seconds=settings.heartbeat_seconds,
        started_at=to_text(utc_now()),
    )
    server = Server(
        listen=settings.addresses,
        services=[ServiceSpec(NAME, governance_pb2_grpc.add_GovernanceServiceServicer_to_server, servicer, ACCESS)],
        credentials=credentials,
        telemetry=telemetry,
        drain_seconds=settings.drain_seconds,
        allow_remote=settings.allow_remote,
        tls=settings.tls,
    )
    if settings.metrics:
        telemetry.serve_metrics(settings.metrics)
    try:
        await serve_until_signalled(server, ready=ready)
    finally:
        await broker.close()
        await database.close()
        telemetry.shutdown()


def main() -> int:
    """The entry point; the exit code."""
    return exit_code("governance", _serve)


def _serve() -> None:
    settings, telemetry = load(os.environ), setup("governance", os.environ)
    run_process(lambda ready: run(settings, telemetry, ready=ready))


if __name__ == "__main__":
    sys.exit(main())
