"""`python -m nanoclaw_ipc_gateway`: the IPC gateway as a process."""

import os
import sys
from collections.abc import Callable, Mapping

from nanoclaw_ipc_gateway.gateway import Gateway
from nanoclaw_ipc_gateway.settings import Settings
from nanoclaw_rpc import serve_until_signalled
from nanoclaw_rpc.process import exit_code, run_process
from nanoclaw_telemetry import Telemetry, setup


async def run(
    settings: Settings, *, telemetry: Telemetry | None = None, ready: Callable[[], None] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""
    gateway = Gateway(settings, telemetry=telemetry)
    await gateway.start()
    try:
        await serve_until_signalled(gateway.server, ready=ready)
    finally:
        await gateway.stop()


def main(environ: Mapping[str, str] = os.environ) -> int:
    """The process; 0 after a drained stop, 1 where it could not start."""

    def serve() -> None:
        settings, telemetry = Settings.read(environ), setup("gateway", environ)
        if settings.metrics:
            telemetry.serve_metrics(settings.metrics)
        try:
            run_process(lambda ready: run(settings, telemetry=telemetry, ready=ready))
        finally:
            telemetry.shutdown()

    return exit_code("gateway", serve)


if __name__ == "__main__":
    sys.exit(main())
