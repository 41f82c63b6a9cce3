"""A real broker process over a home, with the counting provider installed as third parties install theirs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc


@contextmanager
def process(home: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Started; killed at the end, as SIGKILL has it, where it has not ended by itself. settings: NANOCLAW_BROKER_*."""
    plugins = Path(__file__).parent / "plugins"
    environ = {**os.environ, "NANOCLAW_HOME": str(home), "NANOCLAW_BROKER_RATE_L2": "100000"}
    environ |= {"NANOCLAW_BROKER_HARD_L2": "100000", "NANOCLAW_BROKER_PENDING": "64"}
    environ |= {f"NANOCLAW_BROKER_{name}": value for name, value in settings.items()}
    environ["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}:{plugins}"
    with (home / "logs" / "broker.log").open("ab") as output:
        running = subprocess.Popen([sys.executable, "-m", "nanoclaw_broker"], env=environ, stderr=output)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()


async def reach(dial: Any, home: Path, principal: str, **options: Any) -> Any:
    """A stub of a broker that may still be starting."""
    channel = dial(f"unix:{home}/run/broker.sock", principal, **{"attempts": 40, "timeout": 30} | options)
    stub = broker_pb2_grpc.BrokerServiceStub(channel)
    await stub.GetStatus(pb.GetStatusRequest())
    return stub
