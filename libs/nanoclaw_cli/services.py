"""The services that make up the system on one machine: their names, modules, sockets and loopback ports."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Service:
    """One of the four.

    module: what `python -m` runs. prefix: that of its settings. port: its loopback port under `up`.
    """

    name: str
    module: str
    prefix: str
    port: int

    def port_from(self, first: int) -> int:
        """Its port where governance's is another one than usual."""
        return self.port - SERVICES[0].port + first

    def socket(self, home: Path) -> Path:
        """Where it listens on this machine."""
        return home / "run" / f"{self.name}.sock"

    def target(self, home: Path) -> str:
        """The gRPC target of its socket."""
        return f"unix:{self.socket(home)}"

    def log(self, home: Path) -> Path:
        """Where its log lines go, JSON, one a line."""
        return home / "logs" / f"{self.name}.log"


SERVICES = (
    Service("governance", "nanoclaw_governance", "NANOCLAW_GOVERNANCE_", 50051),
    Service("broker", "nanoclaw_broker", "NANOCLAW_BROKER_", 50052),
    Service("gateway", "nanoclaw_ipc_gateway", "NANOCLAW_GATEWAY_", 50054),
    Service("dispatcher", "nanoclaw_dispatcher", "NANOCLAW_DISPATCHER_", 50053),
)
"""In the order in which they start; they stop in the reverse one, so that nothing is dispatched into a void."""
