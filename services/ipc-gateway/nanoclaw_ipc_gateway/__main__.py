"""`python -m nanoclaw_ipc_gateway`: the IPC gateway as a process."""

import os
import sys
from collections.abc import Callable, Mapping

from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway.gateway import Gateway
from nanoclaw_ipc_gateway.settings import Settings
from nanoclaw_rpc import serve_until_signalled
from nanoclaw_rpc.process import run_process
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
    try:
        settings = Settings.read(environ)
        telemetry = setup("gateway", environ)
        if settings.metrics:
            telemetry.serve_metrics(settings.metrics)
        try:
            run_process(lambda ready: run(settings, telemetry=telemetry, ready=ready))
        finally:
            telemetry.shutdown()
    except NanoclawError as error:
        sys.stderr.write(f"gateway: {error}; {error.next_step}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
