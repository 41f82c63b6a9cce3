"""A product: its status, who may change it, and what it does to its tasks."""

import enum
from typing import Any, NamedTuple

from nanoclaw_core.errors import Kind, NanoclawError, denied
from nanoclaw_core.principal import Caller
from nanoclaw_governance.policy import Policy


class ProductStatus(enum.StrEnum):
    """Whether work on a product goes on."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    """Its tasks stay where they are; none enters DOING."""
    KILLED = "KILLED"
    """No new tasks; none enters DOING. Only an admin kills and revives."""


class Product(NamedTuple):
    """A product's row."""

    id: str
    name: str
    description: str
    status: str
    risk: str
    version: int
    created_at: str
    updated_at: str


class ProductChange(NamedTuple):
    """What an update asks for; None leaves as is."""

    name: str | None = None
    description: str | None = None
    status: str | None = None
    risk: str | None = None
    expected_version: int | None = None


def decide_update(product: Product, change: ProductChange, caller: Caller, policy: Policy, now: str) -> dict[str, Any]:
    """The columns that change; empty if none does. Raises STALE_VERSION and NOT_PERMITTED."""
    if change.expected_version is not None and change.expected_version != product.version:
        raise NanoclawError(
            Kind.CONFLICT,
            "STALE_VERSION",
            f"product {product.id} is at version {product.version}, not {change.expected_version}",
            next_step="read the product again and decide anew",
            expected=change.expected_version,
            actual=product.version,
            state=product.status,
        )
    wanted = {
        "name": change.name,
        "description": change.description,
        "status": change.status,
        "risk": change.risk,
    }
    changes: dict[str, Any] = {
        column: value for column, value in wanted.items() if value is not None and value != getattr(product, column)
    }
    if "KILLED" in (changes.get("status"), "status" in changes and product.status):
        check_admin(caller, policy, f"kill or revive product {product.id}")
    if changes:
        changes["version"] = product.version + 1
        changes["updated_at"] = now
    return changes


REVIVE = "an admin may revive it: UpdateProduct to PRODUCT_STATUS_ACTIVE, or `nanoclaw product activate`"


def check_admin(caller: Caller, policy: Policy, what: str) -> None:
    """What only a person may do; with TRUST_MAIN main too. Raises NOT_PERMITTED."""
    if caller.is_admin or (policy.trust_main and caller.is_main):
        return
    raise denied("NOT_PERMITTED", f"{caller.principal} may not {what}", "ask an operator with the role admin")
