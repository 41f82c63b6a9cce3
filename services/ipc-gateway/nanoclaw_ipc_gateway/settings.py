"""The gateway's settings, from NANOCLAW_GATEWAY_* and the few that all services share."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core.addresses import listening, unix_socket
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import check_group
from nanoclaw_core.settings import load
from nanoclaw_ipc_gateway.mailbox import RESERVED
from nanoclaw_rpc import tls

PREFIX = "NANOCLAW_GATEWAY_"
SHARED = {"home": "NANOCLAW_HOME", "secrets": "NANOCLAW_SECRETS", **tls.SHARED}
_POSITIVE = ("workers", "answer_seconds", "sweep_seconds")
_HOME = Path("var").absolute()
GROUPS = ("main", "developer", "security")
"""Who there is where config/groups.toml does not say."""


@dataclass(frozen=True)
class Settings:
    """What can be set.

    home: NANOCLAW_HOME. secrets: NANOCLAW_SECRETS; unset: home/secrets. listen: addresses, separated by commas; empty:
    the unix socket in home/run. governance, broker: where they are; empty: their sockets in home/run.
    gateway_uid, agent_uid: whose the files are, applied where we run
    as root (agent_uid is also the agents' group); unset: nobody's but ours. workers: files of one mailbox at once.
    per_minute: small files a minute for each group, 0 for no limit. answer_seconds: how long a request may take.
    settle_seconds: how long a half-written file must have been still. quarantine_cap: quarantined files kept for each
    group. sweep_seconds: how often mailboxes are looked through although inotify said nothing. snapshot_tasks: how many
    tasks gov_pipeline.json holds at most. drain_seconds: how long a stop waits for what is under way. lock_seconds: how
    long a start waits for a gateway on the same home to end. metrics: a loopback host:port, or empty.
    allow_remote: listen beyond loopback in clear text. tls_enabled, tls_dir: see nanoclaw_rpc.tls.
    """

    home: Path = _HOME
    secrets: Path | None = None
    listen: str = ""
    governance: str = ""
    broker: str = ""
    gateway_uid: int | None = None
    agent_uid: int | None = None
    workers: int = 16
    per_minute: int = 6000
    answer_seconds: float = 25.0
    settle_seconds: float = 1.0
    quarantine_cap: int = 100
    sweep_seconds: float = 15.0
    snapshot_tasks: int = 2000
    drain_seconds: float = 5.0
    lock_seconds: float = 5.0
    metrics: str = ""
    allow_remote: bool = False
    tls_enabled: bool = False
    tls_dir: Path | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """From the environment. Raises UNKNOWN_SETTING, INVALID_SETTING."""
        return load(cls, PREFIX, environ, shared=SHARED, strict=(tls.PREFIX,), positive=_POSITIVE)

    def address(self, service: str) -> str:
        """Where another service is."""
        return str(getattr(self, service)) or unix_socket(self.home, service)

    @property
    def secrets_folder(self) -> Path:
        """Where tokens and keys lie."""
        return self.secrets or self.home / "secrets"

    @property
    def tls(self) -> tls.Tls | None:
        """Mutual TLS for TCP, listening and dialling. Raises INVALID_SETTING."""
        return tls.from_settings(self.secrets_folder, "service:gateway", self.tls_enabled, self.tls_dir)

    @property
    def addresses(self) -> list[str]:
        """Where to listen."""
        return listening(self.listen, self.home, "gateway")

    def groups(self) -> list[str]:
        """The groups that have a standing mailbox. Raises INVALID_SETTING for a file that can't be read."""
        path = self.home / "config" / "groups.toml"
        try:
            found = tomllib.loads(path.read_text())
            return [_group(name) for name in found.get("groups", {})] or list(GROUPS)
        except FileNotFoundError:
            return list(GROUPS)
        except (OSError, ValueError, NanoclawError) as error:
            raise NanoclawError(
                Kind.INVALID, "INVALID_SETTING", f"{path} can't be read: {error}", next_step="mend it, or remove it"
            ) from None


def _group(name: str) -> str:
    if check_group("group", name) in RESERVED:
        raise ValueError(f"no group can be called {name!r}")
    return name
