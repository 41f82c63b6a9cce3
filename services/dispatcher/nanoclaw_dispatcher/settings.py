"""What an operator sets: NANOCLAW_DISPATCHER_*, and the few variables that all services share."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nanoclaw_core import settings
from nanoclaw_core.addresses import listening, unix_socket
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.ending import RetryPolicy
from nanoclaw_dispatcher.means import Limits
from nanoclaw_rpc import tls

PREFIX = "NANOCLAW_DISPATCHER_"
_PREFIX = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,59}")
SHARED = {"home": "NANOCLAW_HOME", "secrets": "NANOCLAW_SECRETS", **tls.SHARED}
_POSITIVE = ("max_containers", "max_attempts", "lease_seconds", "sweep_seconds", "heartbeat_seconds", "docker_seconds")


@dataclass(frozen=True)
class Settings:
    """secrets: NANOCLAW_SECRETS; unset: home/secrets. listen: addresses, comma separated; empty: the unix
    socket of the home. governance, gateway, broker: their addresses; empty: their sockets in the home.

    max_containers: attempts alive at once, over all dispatchers of the database. max_attempts: how many may fail
    before the task is blocked. backoff_seconds: the pause before the second, doubled each time up to
    backoff_most_seconds. max_rework: rounds of rework before the task is blocked. lease_seconds: how long a dispatcher
    that is gone without a trace keeps others off. sweep_seconds: between two sweeps. linger_seconds: how long an agent
    may go on once its task has moved. keep_seconds: how long the runtime keeps what it has of an ended attempt.
    runtime: process or docker, of groups that say nothing. image: of containers, likewise. docker_host: the engine's
    address; empty: DOCKER_HOST, or its usual socket. docker_data: the absolute path, on the engine's machine, of the
    folder that is our home here, with attempts/ and groups/; empty: it is the same. docker_prefix: of containers'
    names. docker_seconds: how long the engine may take to answer. agent_uid: user and group inside containers; None:
    10002 where we may give files to that group, else our own.
    allow_unsandboxed: lets any command run without a sandbox where none works. sandbox: False does not even try one.
    heartbeat_seconds: of WatchDispatches. metrics: loopback host:port, empty: none. allow_remote: listen beyond
    loopback in clear text. tls_enabled, tls_dir: see nanoclaw_rpc.tls.
    """

    home: Path = Path("var")
    secrets: Path | None = None
    listen: str = ""
    governance: str = ""
    gateway: str = ""
    broker: str = ""
    max_containers: int = 3
    max_attempts: int = 3
    backoff_seconds: float = 1.0
    backoff_most_seconds: float = 300.0
    max_rework: int = 3
    lease_seconds: float = 15.0
    sweep_seconds: float = 30.0
    linger_seconds: float = 30.0
    keep_seconds: float = 3600.0
    runtime: str = "process"
    image: str = "nanoclaw-agent"
    docker_host: str = ""
    docker_data: str = ""
    docker_prefix: str = ""
    docker_seconds: int = 30
    agent_uid: int | None = None
    allow_unsandboxed: bool = False
    sandbox: bool = True
    heartbeat_seconds: float = 10.0
    drain_seconds: float = 5.0
    metrics: str = ""
    allow_remote: bool = False
    tls_enabled: bool = False
    tls_dir: Path | None = None

    @property
    def secrets_folder(self) -> Path:
        """Where tokens and keys lie."""
        return self.secrets or self.home / "secrets"

    @property
    def tls(self) -> tls.Tls | None:
        """Mutual TLS for TCP, listening and dialling. Raises INVALID_SETTING."""
        return tls.from_settings(self.secrets_folder, "service:dispatcher", self.tls_enabled, self.tls_dir)

    @property
    def addresses(self) -> list[str]:
        """Where to listen."""
        return listening(self.listen, self.home, "dispatcher")

    @property
    def governance_address(self) -> str:
        """Where governance listens."""
        return self.governance or unix_socket(self.home, "governance")

    @property
    def gateway_address(self) -> str:
        """Where the gateway listens."""
        return self.gateway or unix_socket(self.home, "gateway")

    @property
    def broker_address(self) -> str:
        """Where the broker listens."""
        return self.broker or unix_socket(self.home, "broker")

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
    found = settings.load(Settings, PREFIX, environ, shared=SHARED, strict=(tls.PREFIX,), positive=_POSITIVE)
    _check(found)
    return found if found.docker_host else replace(found, docker_host=environ.get("DOCKER_HOST", ""))


def _check(found: Settings) -> None:
    data, prefix = found.docker_data, found.docker_prefix
    if found.runtime not in ("process", "docker"):
        raise _wrong("runtime", found.runtime, "is neither process nor docker")
    if not found.image.strip():
        raise _wrong("image", found.image, "names no image")
    if data and (not data.startswith("/") or os.path.normpath(data) != data or ":" in data):
        raise _wrong("docker_data", data, "must be an absolute, normal path without a colon")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise _wrong("docker_prefix", prefix, "must match [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 60 characters")
    if found.agent_uid is not None and found.agent_uid < 1:
        raise _wrong("agent_uid", str(found.agent_uid), "agents never run as root")


def _wrong(field: str, value: str, why: str) -> NanoclawError:
    variable = PREFIX + field.upper()
    return NanoclawError(
        Kind.INVALID, "INVALID_SETTING", f"{variable}={value!r} {why}", next_step="see docs/configuration.md"
    )
