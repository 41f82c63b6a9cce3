"""The gateway, put together: a value that main starts, and tests too."""

import asyncio
import contextlib
from functools import partial

from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceStub
from nanoclaw.gateway.v1.gateway_pb2_grpc import add_GatewayServiceServicer_to_server
from nanoclaw.governance.v1.governance_pb2_grpc import GovernanceServiceStub
from nanoclaw_core import clock
from nanoclaw_ipc_gateway import mailboxes, records
from nanoclaw_ipc_gateway.access import ACCESS
from nanoclaw_ipc_gateway.attempts import Attempts
from nanoclaw_ipc_gateway.calls import Calls
from nanoclaw_ipc_gateway.concluding import Concluder
from nanoclaw_ipc_gateway.deciding import Decider
from nanoclaw_ipc_gateway.folders import Owners
from nanoclaw_ipc_gateway.intake import Intake
from nanoclaw_ipc_gateway.limits import Limits
from nanoclaw_ipc_gateway.mailbox import Home
from nanoclaw_ipc_gateway.post import Post
from nanoclaw_ipc_gateway.replies import Replies
from nanoclaw_ipc_gateway.servicer import Servicer
from nanoclaw_ipc_gateway.settings import Settings
from nanoclaw_ipc_gateway.snapshots import Snapshots
from nanoclaw_ipc_gateway.status import Status
from nanoclaw_ipc_gateway.submissions import Submissions
from nanoclaw_ipc_gateway.sweep import Sweep
from nanoclaw_ipc_gateway.tables import SLICE, rpc_requests
from nanoclaw_rpc import Credentials, Server, ServiceSpec, connect
from nanoclaw_store import Database, Idempotency
from nanoclaw_telemetry import Telemetry, off

OUTAGE_ATTEMPTS = 100
"""Another service's restart is waited out; what ends the wait is the time that a request has."""

SERVICE = "nanoclaw.gateway.v1.GatewayService"


class Gateway:
    """All of it. `server` is ready to be started once `start` has returned."""

    server: Server
    intake: Intake
    sweep: Sweep
    replies: Replies

    def __init__(
        self, settings: Settings, *, telemetry: Telemetry | None = None, now: clock.Clock = clock.utc_now
    ) -> None:
        self.settings = settings
        self._telemetry = telemetry or off("gateway")
        self._now = now
        self._exit = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Opens what is there, finishes what a crash has left, and begins to watch; serves no RPC yet."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends what `start` began, in reverse."""
        await self._exit.aclose()

    async def _start(self) -> None:
        settings, telemetry, now, leave = self.settings, self._telemetry, self._now, self._exit
        credentials = Credentials.open(settings.secrets_folder, own="service:gateway")
        home = Home(settings.home, Owners(settings.gateway_uid, settings.agent_uid))
        leave.callback(home.close)
        await home.own(settings.lock_seconds)
        database = await Database.open(settings.home / "store" / "nanoclaw.db", SLICE, clock=now)
        leave.push_async_callback(database.close)

        token = credentials.token_file("service:gateway")
        dial = partial(connect, token_file=token, telemetry=telemetry, attempts=OUTAGE_ATTEMPTS, tls=settings.tls)
        governance_channel, broker_channel = (
            dial(settings.address(name), peer=name) for name in ("governance", "broker")
        )
        leave.push_async_callback(governance_channel.close)
        leave.push_async_callback(broker_channel.close)
        governance, broker = GovernanceServiceStub(governance_channel), BrokerServiceStub(broker_channel)

        calls = Calls(governance, broker, settings.answer_seconds)
        decider = Decider(home.claims, calls, Limits(settings.per_minute), settings.settle_seconds)
        concluder = Concluder(home, database, telemetry, now, settings.quarantine_cap)
        counted = await database.read_in_thread(records.counts)
        concluder.tally.requests, concluder.tally.answered, concluder.tally.quarantined = counted
        intake = self.intake = Intake(home, database, decider, concluder, workers=settings.workers)
        leave.push_async_callback(intake.stop, settings.drain_seconds)
        snapshots = Snapshots(
            governance, broker, lambda: [box.mailbox for box in intake.boxes()], now, settings.snapshot_tasks
        )
        idempotency = Idempotency(database, rpc_requests)
        replies = self.replies = Replies(home, database, intake)
        attempts = Attempts(home, database, intake, snapshots, idempotency)

        standing = settings.groups()
        await database.write(lambda tx: [mailboxes.add_standing(tx, group) for group in standing])
        intake.resume()
        for box in intake.open_all():
            snapshots.show(box.mailbox)
        replies.deliver_left(starting=True)
        sweep = self.sweep = Sweep(intake, replies, snapshots, database, settings.sweep_seconds, now)
        for task in (asyncio.create_task(snapshots.run()), asyncio.create_task(sweep.run())):
            leave.push_async_callback(_end, task)

        submissions = Submissions(home, database, intake, idempotency)
        status = Status(clock.to_text(now()), database, intake, concluder.tally)
        servicer = Servicer(attempts, submissions, Post(database, replies, idempotency), status)
        self.server = Server(
            listen=settings.addresses,
            services=[ServiceSpec(SERVICE, add_GatewayServiceServicer_to_server, servicer, ACCESS)],
            credentials=credentials,
            telemetry=telemetry,
            drain_seconds=settings.drain_seconds,
            allow_remote=settings.allow_remote,
            tls=settings.tls,
        )
        leave.push_async_callback(self.server.stop)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
