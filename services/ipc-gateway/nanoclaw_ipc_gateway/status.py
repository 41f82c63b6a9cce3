"""How the gateway is doing."""

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core import VERSION
from nanoclaw_ipc_gateway import messages
from nanoclaw_ipc_gateway.concluding import Tally
from nanoclaw_ipc_gateway.intake import Intake
from nanoclaw_rpc import times
from nanoclaw_store import Database


class Status:
    """Answers GetStatus from memory."""

    def __init__(self, started_at: str, database: Database, intake: Intake, tally: Tally) -> None:
        self._started_at = started_at
        self._database = database
        self._intake = intake
        self._tally = tally

    def now(self) -> gateway.GetStatusResponse:
        """The numbers of this moment."""
        return gateway.GetStatusResponse(
            version=VERSION,
            started_at=times.to_timestamp(self._started_at),
            open_mailboxes=len(self._intake.boxes()),
            requests=self._tally.requests,
            answered=self._tally.answered,
            pending=self._intake.pending,
            quarantined=self._tally.quarantined,
            messages=self._database.read(messages.head),
        )
