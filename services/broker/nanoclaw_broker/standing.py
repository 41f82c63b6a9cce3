"""Whether what a call was once allowed under still stands, for what is sent on its behalf later."""

from nanoclaw_broker import capabilities, freezes
from nanoclaw_broker.freeze import binding
from nanoclaw_broker.policy import Level
from nanoclaw_store import Tx


def still_allowed(tx: Tx, group: str, provider: str, product_id: str, level: int) -> str:
    """Empty where a grant of the group still reaches as far and nothing is frozen; else why not."""
    freeze = binding(freezes.in_force(tx, group, provider), Level(level))
    if freeze is not None:
        return f"{freeze.target} is frozen"
    held = [one for one in capabilities.live(tx, group, provider) if not one.expired(tx.now) and one.level >= level]
    if not any(one.product_id in (product_id, "") for one in held):
        return "the grant that it was made under has ended"
    return ""
