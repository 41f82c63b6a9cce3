"""Whether a grant may be made, and what exactly it grants; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.excerpt import some
from nanoclaw_broker.policy import GATES, GRANT_CEILING_SECONDS, Level
from nanoclaw_core.clock import from_text, to_text
from nanoclaw_core.errors import Kind, NanoclawError, denied, invalid, not_found
from nanoclaw_core.ids import check_group, check_name
from nanoclaw_core.principal import Caller

PROVIDERS = "list them with ListProviders, or `nanoclaw call providers`"
LEVELS = "choose one of ACCESS_LEVEL_L1, ACCESS_LEVEL_L2, ACCESS_LEVEL_L3"
ADMIN = "ask an operator with the role admin"


@dataclass(frozen=True, slots=True)
class Wish:
    """A grant as it is asked for. levels: of the provider's actions; None where there is no such provider."""

    capability: Capability
    levels: Mapping[str, Level] | None


def check_form(capability: Capability) -> None:
    """The names in a grant or a revoke. Raises INVALID_FIELD."""
    check_grantee("group", capability.group)
    check_name("provider", capability.provider)
    if capability.product_id:
        check_name("product_id", capability.product_id)


def check_grantee(field: str, value: str) -> str:
    """Who can have grants: a group, or a person as `operator:{name}`, which no group can be called. INVALID_FIELD."""
    if value.startswith("operator:"):
        check_name(field, value.removeprefix("operator:"))
        return value
    return check_group(field, value)


def decide_grant(wish: Wish, by: Caller, now: str) -> Capability:
    """The capability to write, with its end.

    Raises INVALID_FIELD, PROVIDER_NOT_FOUND, ACTION_NOT_FOUND, UNVERIFIED_NEEDS_ADMIN, L3_NEEDS_ADMIN, EXPIRY_TOO_LATE.
    """
    wanted = wish.capability
    check_form(wanted)
    if wanted.level is Level.L0:
        raise invalid("access_level", "gives no access", f"{LEVELS}, or revoke the grant")
    if wish.levels is None:
        raise not_found("provider", wanted.provider, "provider", PROVIDERS)
    _check_actions(wanted, wish.levels)
    if wanted.requires_task_gate and wanted.requires_task_gate not in GATES:
        raise invalid("requires_task_gate", "is no gate", f"choose one of {', '.join(GATES)}, or leave it out")
    if wanted.allow_unverified and not by.is_admin:
        raise denied(
            "UNVERIFIED_NEEDS_ADMIN",
            "only an operator with the role admin lets calls be made whose end nobody can verify",
            "leave allow_unverified out, or ask one",
        )
    check_grantor(by, wanted.level)
    return replace(wanted, expires_at=_end(wanted, now))


def _check_actions(wanted: Capability, levels: Mapping[str, Level]) -> None:
    """A misspelt denial would deny nothing, so every name must be one of the provider's."""
    strange = {*wanted.allowed, *wanted.denied} - levels.keys()
    if strange:
        raise NanoclawError(
            Kind.NOT_FOUND,
            "ACTION_NOT_FOUND",
            f"{wanted.provider} has no action {some(strange)}",
            next_step=f"its actions are {some(levels)}",
        )


def check_grantor(by: Caller, level: Level) -> None:
    """Whether one may make, replace or end a grant of that level. Raises L3_NEEDS_ADMIN."""
    if level is Level.L3 and not by.is_admin:
        raise denied("L3_NEEDS_ADMIN", "only an operator with the role admin grants, replaces or ends L3", ADMIN)


def _end(wanted: Capability, now: str) -> str:
    """7 days from now for L2 and above, unless sooner; never for L1, unless said."""
    latest = to_text(from_text(now) + timedelta(seconds=GRANT_CEILING_SECONDS))
    if not wanted.expires_at:
        return latest if wanted.level >= Level.L2 else ""
    if wanted.expires_at <= now:
        raise invalid("expires_at", "is over", "name a moment to come, or none")
    if wanted.level >= Level.L2 and wanted.expires_at > latest:
        raise NanoclawError(
            Kind.PRECONDITION,
            "EXPIRY_TOO_LATE",
            f"a grant of {wanted.level.name} ends within 7 days, so at {latest} at the latest",
            next_step="leave expires_at out, and renew the grant when it ends",
            latest=latest,
        )
    return wanted.expires_at
