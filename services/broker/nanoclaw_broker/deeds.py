"""What somebody did, as a row of the log: who, speaking through whom, by which request, under which policy."""

from typing import Any

from nanoclaw_broker.policy import POLICY_VERSION
from nanoclaw_broker.tables import LOG
from nanoclaw_core.principal import Caller
from nanoclaw_store import Change, Tx

BROKER = Caller("service:broker")
"""Who does what the broker does by itself."""


def log_deed(
    tx: Tx, by: Caller, action: str, *changes: Change, request_id: str = "", trace_id: str = "", **columns: Any
) -> None:
    """Appends it with the changes that it made. columns: others of the log's, such as subject, task_id and reason."""
    LOG.append(
        tx,
        action=action,
        principal=by.principal,
        via=by.via,
        attempt_id=by.attempt,
        policy_version=POLICY_VERSION,
        request_ref=request_id,
        trace_id=trace_id,
        changes=changes,
        **columns,
    )
