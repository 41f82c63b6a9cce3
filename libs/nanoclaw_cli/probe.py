"""`python -m nanoclaw_cli.probe [SERVICE]`: exit 0 if it serves; what a container's health check runs again and again.

It asks grpc.health.v1 over the service's own socket in the container, so it needs neither a credential nor a
certificate; without a name it asks every service that has a socket there. It loads grpc and nothing of ours: a check
that costs half a second of CPU would cost more than an idle service.
"""

import os
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nanoclaw_cli.services import SERVICES

SECONDS = 3.0


def problem(target: str, timeout: float = SECONDS) -> str:
    """Why the service at a gRPC target does not serve, or empty: it does."""
    with grpc.insecure_channel(target) as channel:
        try:
            check: Any = health_pb2_grpc.HealthStub(channel)  # its published types lack the methods
            answer = check.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str]) -> int:
    """The exit code; what is wrong goes to stderr, where the engine keeps it."""
    known = {service.name: service for service in SERVICES}
    if not known.keys() >= set(arguments):
        sys.stderr.write(f"usage: python -m nanoclaw_cli.probe [{'|'.join(known)}]\n")
        return 2
    home = Path(os.environ.get("NANOCLAW_HOME", "var")).absolute()
    asked = [known[name] for name in arguments] or [one for one in SERVICES if one.socket(home).exists()]
    problems = {service.name: found for service in asked if (found := problem(service.target(home)))}
    if not asked:
        problems["nothing"] = f"there is no socket in {home / 'run'}"
    for name, found in problems.items():
        sys.stderr.write(f"{name} does not serve: {found}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
