"""What an operator sets: NANOCLAW_DISPATCHER_*, and the few variables that all services share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core import settings
from nanoclaw_dispatcher.ending import RetryPolicy
from nanoclaw_dispatcher.means import Limits

PREFIX = "NANOCLAW_DISPATCHER_"
SHARED = {"home": "NANOCLAW_HOME", "secrets": "NANOCLAW_SECRETS"}


@dataclass(frozen=True)
class Settings:
    """secrets: NANOCLAW_SECRETS; unset: home/secrets. listen: addresses, comma separated; empty: the unix
    socket of the home. governance, gateway: their addresses; empty: their sockets in the home.

    max_containers: attempts alive at once, over all dispatchers of the database. max_attempts: how many may fail
    before the task is blocked. backoff_seconds: the pause before the second, doubled each time up to
    backoff_most_seconds. max_rework: rounds of rework before the task is blocked. lease_seconds: how long a dispatcher
    that is gone without a trace keeps others off. sweep_seconds: between two sweeps. linger_seconds: how long an agent
    may go on once its task has moved. keep_seconds: how long the runtime keeps what it has of an ended attempt.
    allow_unsandboxed: lets any command run without a sandbox where none works. sandbox: False does not even try one.
    heartbeat_seconds: of WatchDispatches. metrics: loopback host:port, empty: none. allow_remote: listen beyond
    loopback.
    """

    home: Path = Path("var")
    secrets: Path | None = None
    listen: str = ""
    governance: str = ""
    gateway: str = ""
    max_containers: int = 3
    max_attempts: int = 3
    backoff_seconds: float = 1.0
    backoff_most_seconds: float = 300.0
    max_rework: int = 3
    lease_seconds: float = 15.0
    sweep_seconds: float = 30.0
    linger_seconds: float = 30.0
    keep_seconds: float = 3600.0
    allow_unsandboxed: bool = False
    sandbox: bool = True
    heartbeat_seconds: float = 10.0
    drain_seconds: float = 5.0
    metrics: str = ""
    allow_remote: bool = False

    def _socket(self, service: str) -> str:
        return f"unix:{self.home.absolute()}/run/{service}.sock"

    @property
    def secrets_folder(self) -> Path:
        """Where tokens and keys lie."""
        return self.secrets or self.home / "secrets"

    @property
    def addresses(self) -> list[str]:
        """Where to listen."""
        return [each.strip() for each in self.listen.split(",") if each.strip()] or [self._socket("dispatcher")]

    @property
    def governance_address(self) -> str:
        """Where governance listens."""
        return self.governance or self._socket("governance")

    @property
    def gateway_address(self) -> str:
        """Where the gateway listens."""
        return self.gateway or self._socket("gateway")

    @property
    def limits(self) -> Limits:
        """The limits of the engine."""
        return Limits(
            max_containers=self.max_containers,
            max_rework=self.max_rework,
            retry=RetryPolicy(self.max_attempts, self.backoff_seconds, self.backoff_most_seconds),
            lease_seconds=self.lease_seconds,
            sweep_seconds=self.sweep_seconds,
            linger_seconds=self.linger_seconds,
            keep_seconds=self.keep_seconds,
        )


def load(environ: Mapping[str, str]) -> Settings:
    """From the environment. Raises UNKNOWN_SETTING, INVALID_SETTING."""
    return settings.load(Settings, PREFIX, environ, shared=SHARED)
