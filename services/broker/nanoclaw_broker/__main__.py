"""The broker as a process: settings, secrets, database, crashed calls settled, then the server until told to stop."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint

import structlog

from nanoclaw_broker import registry, runtime_servicer
from nanoclaw_broker.broker import Broker
from nanoclaw_broker.budgeting import Budgets
from nanoclaw_broker.configuration import configuration
from nanoclaw_broker.governance import GovernanceTasks
from nanoclaw_broker.grants import Grants
from nanoclaw_broker.kept_params import Seal
from nanoclaw_broker.kill_switch import KillSwitch
from nanoclaw_broker.lapsing import Lapsing
from nanoclaw_broker.lock import held
from nanoclaw_broker.memory import withhold
from nanoclaw_broker.news import News
from nanoclaw_broker.observing import Observer
from nanoclaw_broker.pending_list import PendingList
from nanoclaw_broker.providers import Environment
from nanoclaw_broker.providers.builtin import BUILTIN
from nanoclaw_broker.reconciling import Reconciler
from nanoclaw_broker.recovery import settle_crashed
from nanoclaw_broker.relay.sockets import Sockets
from nanoclaw_broker.relaying import Relaying
from nanoclaw_broker.runtime_servicer import RuntimeServicer
from nanoclaw_broker.secrets import Secrets, open_key
from nanoclaw_broker.servicer import BrokerServicer, spec
from nanoclaw_broker.settings import Settings, read
from nanoclaw_broker.tables import SLICE
from nanoclaw_broker.voting import Voting
from nanoclaw_core.clock import to_text, utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import Credentials, Server, connect, serve_until_signalled
from nanoclaw_rpc.process import exit_code, run_process
from nanoclaw_store import Database
from nanoclaw_telemetry import Telemetry, off, setup

log = structlog.get_logger()


async def run(
    settings: Settings,
    *,
    telemetry: Telemetry | None = None,
    ready: Callable[[], None] | None = None,
    found: Sequence[EntryPoint] | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT or cancellation. found: a test's stand-in for installed packages' providers.

    Raises NanoclawError where it can't start.
    """
    telemetry = telemetry or off("broker")
    home = settings.home.absolute()
    (home / "run").mkdir(parents=True, exist_ok=True, mode=0o750)
    async with held(home / "run" / "broker.lock", settings.lock_seconds):
        credentials = Credentials.open(settings.secrets_folder, own="service:broker")
        token = credentials.token_file("service:broker")
        key = open_key(settings.secrets_folder / "broker.key")
        secrets = Secrets(settings.secrets_folder / "broker", also=(key.hex(), token.read_text().strip()))
        news = News()
        environment = Environment(
            home,
            settings.http_allow,
            secrets.get,
            configuration(home, settings.provider_files),
            news.providers_changed,
            secrets.scrub_value,
        )
        providers = registry.Registry(registry.load(environment, BUILTIN, found), secrets)
        database = await Database.open(home / "store" / "nanoclaw.db", SLICE)
        channel = connect(
            settings.governance_address, token_file=token, telemetry=telemetry, tls=settings.tls, peer="governance"
        )
        seal, tasks = Seal(key), GovernanceTasks(channel)
        reconciler = Reconciler(
            database,
            providers,
            secrets,
            seal,
            first_seconds=settings.reconcile_seconds,
            quiet_seconds=settings.quiet_seconds,
        )
        lapsing = Lapsing(database)
        broker = Broker(
            database,
            providers,
            tasks,
            secrets,
            key,
            settings.limits,
            relay_limits=settings.relay_limits,
            most_seconds=settings.call_seconds,
            on_unknown=reconciler.wake,
            on_waiting=lapsing.wake,
        )
        observer = Observer(telemetry)
        sockets = Sockets(home, settings.agent_uid)
        relaying = Relaying(broker, sockets, secrets, observer.observe, settings.relay_seconds)
        background: list[asyncio.Task[None]] = []
        try:
            await providers.start()
            await settle_crashed(database)
            await relaying.restore()
            background.append(asyncio.create_task(reconciler.run()))
            background.append(asyncio.create_task(lapsing.run()))
            grants = Grants(database, providers, news, tasks.product)
            kill_switch = KillSwitch(database, providers, news.tell)
            runtime = RuntimeServicer(Budgets(database, settings.limits))
            voting = Voting(broker, tasks, seal, settings.limits)
            pending = PendingList(database, providers, tasks, secrets, seal, settings.limits)
            started_at = to_text(utc_now())
            servicer = BrokerServicer(broker, grants, kill_switch, voting, pending, relaying, observer, started_at)
            server = Server(
                listen=settings.addresses,
                services=[spec(servicer), runtime_servicer.spec(runtime)],
                credentials=credentials,
                telemetry=telemetry,
                drain_seconds=settings.drain_seconds,
                allow_remote=settings.allow_remote,
                tls=settings.tls,
            )
            if settings.metrics:
                telemetry.serve_metrics(settings.metrics)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, secrets, news)
            await serve_until_signalled(server, ready=ready)
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            await relaying.stop()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await broker.close(settings.grace_seconds)
            await providers.close()
            await channel.close()
            await database.close()
            telemetry.shutdown()


def _reload(secrets: Secrets, news: News) -> None:
    """On SIGHUP; secrets that can't be accepted leave the old ones in force."""
    try:
        secrets.reload()
        news.providers_changed()
        log.info("secrets_reloaded")
    except NanoclawError as error:
        log.error("secrets_not_reloaded", reason=error.reason, message=error.message)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """The exit code."""
    withhold()

    def serve() -> None:
        settings, telemetry = read(environ), setup("broker", environ)
        run_process(lambda ready: run(settings, telemetry=telemetry, ready=ready))

    return exit_code("broker", serve)


if __name__ == "__main__":
    sys.exit(main())
