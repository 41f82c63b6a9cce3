"""What an earlier process left under way when it died, settled before anything is served."""

import structlog

from nanoclaw_broker import answers, calls
from nanoclaw_broker.execution import as_end
from nanoclaw_broker.ledger import Kind, State, state_without_reply
from nanoclaw_store import Database, Tx

log = structlog.get_logger()


async def settle_crashed(database: Database) -> int:
    """Ends every call that is under way; answers how many. Nobody else may be executing: hold the lock of the home.

    PREPARED was never sent, so it FAILED as NEVER_SENT; it is not executed now, since its parameters are not kept, and
    its idempotency key is free again. SENT may have happened: UNKNOWN if it changes anything, else TIMEOUT.
    """
    recovered = await database.write(_settle_all)
    if recovered:
        log.warning("calls_recovered", count=recovered)
    return recovered


def _settle_all(tx: Tx) -> int:
    rows = calls.pending(tx)
    for row in rows:
        was, call_id = State(row["state"]), row["call_id"]
        if was is State.PREPARED:
            ended = answers.never_sent(call_id)
        else:
            state = state_without_reply(Kind(row["kind"]))
            why = "the broker crashed while it was under way"
            ended = answers.without_reply(call_id, state, why, {}, in_trouble=None)
        stake = calls.stake_of(row)
        calls.settle(tx, call_id, was, as_end(ended, stake), stake, row["trace_id"], action="recover")
    return len(rows)
