"""An operator says what became of a call that ended UNKNOWN."""

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import messages, records, settled_answers, settlements
from nanoclaw_broker.ledger import State
from nanoclaw_broker.settlement import Outcome
from nanoclaw_broker.tables import REQUESTS
from nanoclaw_core.errors import Kind, NanoclawError, invalid, not_found
from nanoclaw_core.principal import Caller
from nanoclaw_store import Database, Idempotency, Tx

MOST_NOTE = 500


class Settling:
    """Settles by hand."""

    def __init__(self, database: Database) -> None:
        self._idempotency = Idempotency(database, REQUESTS)

    async def settle(self, caller: Caller, request: pb.SettleRequest, trace_id: str) -> pb.SettleResponse:
        """Raises INVALID_FIELD, CALL_NOT_FOUND, NOT_UNKNOWN."""
        outcome, note = _outcome(request), request.note.strip()
        if not note or len(note) > MOST_NOTE:
            raise invalid("note", f"must be 1 to {MOST_NOTE} characters", "say how it is known")

        def unit(tx: Tx) -> pb.SettleResponse:
            row = records.by_id(tx, request.call_id)
            if row is None:
                raise not_found("call", request.call_id, "call_id", records.LISTED)
            answer = settled_answers.settled(request.call_id, outcome, caller.principal)
            references = {"request_id": request.request_id, "trace_id": trace_id}
            if not settlements.clear_up(tx, request.call_id, outcome, answer, caller, note, **references):
                raise _not_unknown(request.call_id, State(row["state"]))
            settled = records.by_id(tx, request.call_id)
            assert settled is not None
            return pb.SettleResponse(call=messages.call_record(settled, settlements.find(tx, request.call_id)))

        return await self._idempotency.run(caller.principal, request, unit)


def _outcome(request: pb.SettleRequest) -> Outcome:
    try:
        return Outcome(pb.SettleOutcome.Name(request.outcome).removeprefix("SETTLE_OUTCOME_"))
    except ValueError:
        known = ", ".join(f"SETTLE_OUTCOME_{one}" for one in Outcome)
        raise invalid("outcome", "does not say what became of the call", f"choose one of {known}") from None


def _not_unknown(call_id: str, state: State) -> NanoclawError:
    return NanoclawError(
        Kind.PRECONDITION,
        "NOT_UNKNOWN",
        f"call {call_id} is {state}, there is nothing to settle",
        next_step="list those that are with ListCalls, states CALL_STATE_UNKNOWN",
        state=state.value,
    )
