"""The broker's settings: NANOCLAW_BROKER_*, read once in __main__."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nanoclaw_broker.policy import APPROVAL_SECONDS, RELAY_LIMITS, Level, Limits
from nanoclaw_core import settings
from nanoclaw_core.addresses import listening, unix_socket
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_rpc import tls

PREFIX = "NANOCLAW_BROKER_"
SHARED = {"home": "NANOCLAW_HOME", "secrets": "NANOCLAW_SECRETS", **tls.SHARED}


@dataclass(frozen=True, slots=True)
class Settings:
    """home: NANOCLAW_HOME. secrets: NANOCLAW_SECRETS; unset: home/secrets. listen, governance: empty for the sockets
    under home. Times in seconds, counts per group.

    http_allow: hosts that the provider http may reach, comma separated; see nanoclaw_broker.providers.http. providers:
    further files like config/providers.toml, comma separated. metrics: a loopback host:port. call_seconds: how long a
    call may take at the most; agents give up at 30. grace_seconds: for calls under way when we stop. lock_seconds: how
    long to wait for a broker that is just stopping.
    reconcile_seconds: until an UNKNOWN call is first looked for. quiet_seconds: how long after its end a call that the
    provider does not know counts as not done.
    relay_pending: requests of an attempt's relay at once. relay_rate, relay_soft, relay_hard: of a group through its
    relays, a minute and a day. relay_seconds: how long one may take. agent_uid: whose group may use the sockets of
    relays; unset: nobody but us.
    allow_remote: listen beyond loopback in clear text. tls_enabled, tls_dir: see nanoclaw_rpc.tls.
    approval_seconds: how long an L3 call waits for its votes, a day at the most.
    l3_requires_operator: one of them must be a person's.
    """

    home: Path = Path("var")
    secrets: Path | None = None
    listen: str = ""
    governance: str = ""
    metrics: str = ""
    http_allow: str = ""
    providers: str = ""
    call_seconds: float = 25.0
    drain_seconds: float = 4.0
    grace_seconds: float = 3.0
    lock_seconds: float = 10.0
    reconcile_seconds: float = 5.0
    quiet_seconds: float = 120.0
    allow_remote: bool = False
    pending: int = 5
    rate_l1: int = 20
    rate_l2: int = 10
    rate_l3: int = 2
    soft_l1: int = 800
    soft_l2: int = 250
    soft_l3: int = 10
    hard_l1: int = 1200
    hard_l2: int = 350
    hard_l3: int = 15
    tls_enabled: bool = False
    tls_dir: Path | None = None
    budget_step_cents: int = 100
    budget_day_cents: int = 10_000
    relay_pending: int = RELAY_LIMITS.pending
    relay_rate: int = RELAY_LIMITS.rate[Level.L2]
    relay_soft: int = RELAY_LIMITS.soft[Level.L2]
    relay_hard: int = RELAY_LIMITS.hard[Level.L2]
    relay_seconds: float = 600.0
    agent_uid: int | None = None
    approval_seconds: int = APPROVAL_SECONDS
    l3_requires_operator: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            least = 0.01 if field.name in ("reconcile_seconds", "quiet_seconds") else 1
            if value < least:
                raise NanoclawError(
                    Kind.INVALID,
                    "INVALID_SETTING",
                    f"{PREFIX}{field.name.upper()}={value} is below {least}",
                    next_step=f"set it to {least} or more; revoke grants to stop calls",
                )
        if self.approval_seconds > APPROVAL_SECONDS:
            raise NanoclawError(
                Kind.INVALID,
                "INVALID_SETTING",
                f"{PREFIX}APPROVAL_SECONDS={self.approval_seconds} is above {APPROVAL_SECONDS}",
                next_step="set it to a day or less; what has waited longer is asked for anew",
            )

    @property
    def tls(self) -> tls.Tls | None:
        """Mutual TLS for TCP, listening and dialling. Raises INVALID_SETTING."""
        return tls.from_settings(self.secrets_folder, "service:broker", self.tls_enabled, self.tls_dir)

    @property
    def addresses(self) -> list[str]:
        """Where to listen."""
        return listening(self.listen, self.home, "broker")

    @property
    def provider_files(self) -> list[Path]:
        """Files like config/providers.toml beside it."""
        return [Path(one.strip()) for one in self.providers.split(",") if one.strip()]

    @property
    def secrets_folder(self) -> Path:
        """Where tokens and keys lie."""
        return self.secrets or self.home / "secrets"

    @property
    def governance_address(self) -> str:
        """Where governance is."""
        return self.governance or unix_socket(self.home, "governance")

    @property
    def limits(self) -> Limits:
        """How much a group may do."""
        return Limits(
            pending=self.pending,
            rate={Level.L1: self.rate_l1, Level.L2: self.rate_l2, Level.L3: self.rate_l3},
            soft={Level.L1: self.soft_l1, Level.L2: self.soft_l2, Level.L3: self.soft_l3},
            hard={Level.L1: self.hard_l1, Level.L2: self.hard_l2, Level.L3: self.hard_l3},
            step_cents=self.budget_step_cents,
            day_cents=self.budget_day_cents,
            approval_seconds=self.approval_seconds,
            operator_votes=self.l3_requires_operator,
        )

    @property
    def relay_limits(self) -> Limits:
        """How much comes through relays; they carry nothing but L2."""
        return replace(
            self.limits,
            pending=self.relay_pending,
            rate={**RELAY_LIMITS.rate, Level.L2: self.relay_rate},
            soft={**RELAY_LIMITS.soft, Level.L2: self.relay_soft},
            hard={**RELAY_LIMITS.hard, Level.L2: self.relay_hard},
        )


def read(environ: Mapping[str, str]) -> Settings:
    """Raises UNKNOWN_SETTING, INVALID_SETTING."""
    return settings.load(Settings, PREFIX, environ, shared=SHARED, strict=(tls.PREFIX,))
