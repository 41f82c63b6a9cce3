"""Check 4: the kill switch."""

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, deny
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.freeze import binding
from nanoclaw_broker.policy import Check


def kill_switch(facts: Facts, _: Capability | None) -> Decision | None:
    """4. No freeze is below it; a grant that waives verification lowers nothing here."""
    freeze = binding(facts.freezes, facts.declared)
    if freeze is None:
        return None
    return deny(
        Check.KILL_SWITCH,
        "FROZEN",
        f"{freeze.target} may do {freeze.max_level.name} at the most now: {freeze.reason}",
        frozen=freeze.target,
        max_level=freeze.max_level.name,
        freeze_reason=freeze.reason,
    )
