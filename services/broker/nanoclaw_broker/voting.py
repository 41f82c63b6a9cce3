"""Votes on L3 calls: cast by people and by groups, and at the last one that it takes the call is executed, once."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import awaiting, call_records, calls, findings, kept_params, pendings, records, vote, votes
from nanoclaw_broker.broker import Broker, Ruling, Told
from nanoclaw_broker.call import decide
from nanoclaw_broker.decision import Outcome
from nanoclaw_broker.entitlement import (
    PENDING,
    Request,
    check_first,
    check_form,
    check_voter,
    refused,
    waiting_row,
)
from nanoclaw_broker.execution import Claimed
from nanoclaw_broker.facts import Ask, Skill
from nanoclaw_broker.governance import Reading, Tasks
from nanoclaw_broker.kept_params import Seal
from nanoclaw_broker.ledger import State
from nanoclaw_broker.policy import Limits
from nanoclaw_broker.providers import Action, Effect, Params
from nanoclaw_broker.remedy import remedy
from nanoclaw_broker.tables import REQUESTS
from nanoclaw_core.errors import Kind, NanoclawError, not_found
from nanoclaw_core.principal import Caller
from nanoclaw_store import Idempotency, Tx

R = TypeVar("R", bound=Message)
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call as it was asked for. skill, action and params: as the providers see it now; None while it doesn't wait."""

    row: sqlite3.Row
    skill: Skill | None = None
    action: Action[Any] | None = None
    params: Params | None = None

    @property
    def ask(self) -> Ask:
        """As the group asked. The attempt is left out: the group asked, and an attempt may be over by now."""
        row = self.row
        names = ("request_id", "provider", "action", "params_hmac", "task_id", "idempotency_key")
        return Ask(row["group_name"], **{name: row[name] for name in names})

    def claimed(self, notes: dict[str, str]) -> Claimed:
        """As it is carried out."""
        assert self.action is not None
        assert self.params is not None
        row = self.row
        effect = Effect(row["call_id"], row["group_name"], row["task_id"], row["created_at"])
        return Claimed(effect, self.action, self.params, notes, row["trace_id"], calls.stake_of(row), kept=True)


class _Stale(Exception):
    """What governance said is too old to vote on."""


class Voting:
    """The ballots. tasks: governance, asked anew for each vote. monotonic: seconds, for how old its answer is."""

    def __init__(
        self, broker: Broker, tasks: Tasks, seal: Seal, limits: Limits, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._broker = broker
        self._database = broker.database
        self._tasks = tasks
        self._seal = seal
        self._limits = limits
        self._monotonic = monotonic
        self._idempotency = Idempotency(broker.database, REQUESTS)

    async def approve(self, caller: Caller, request: pb.ApproveCallRequest, trace_id: str) -> pb.ApproveCallResponse:
        """See the contract for what is refused. It goes on to its end even if the caller goes away."""
        check_form(request)
        return await self._broker.attend(self._approve(caller, request, trace_id))

    async def _approve(self, caller: Caller, request: pb.ApproveCallRequest, trace_id: str) -> pb.ApproveCallResponse:
        waiting = self._recall(request.call_id)
        released: list[Ruling] = []

        def unit(tx: Tx, reading: Reading | None) -> pb.ApproveCallResponse:
            released.clear()
            ruling = self._decide(tx, waiting, reading, caller, request)
            _cast(tx, waiting, caller, request, trace_id, approve=True)
            answer = pb.ApproveCallResponse()
            if ruling.decision.outcome is Outcome.ALLOW:
                calls.release(tx, request.call_id, ruling.facts.circuit, waiting.row["trace_id"])
                released.append(ruling)
                answer.outcome.call_id = request.call_id  # the rest is known later
            return answer

        answer = await self._vote(waiting, request, caller, unit)
        for ruling in released:
            claimed = waiting.claimed(dict(ruling.decision.facts))
            told: asyncio.Task[Told] = self._broker.under_way(request.call_id, self._broker.carry_out(claimed, ruling))
            await asyncio.shield(told)
        if answer.HasField("outcome"):
            answer.outcome.CopyFrom(await self._broker.outcome(request.call_id))
        answer.call.CopyFrom(self._record(request.call_id))
        return answer

    async def reject(self, caller: Caller, request: pb.RejectCallRequest, trace_id: str) -> pb.RejectCallResponse:
        """Ends it: REJECTED. The group that asked may do that too, and for that nobody asks governance."""
        check_form(request)
        waiting = self._recall(request.call_id)
        party = vote.party_of(caller)
        own = party == waiting.row["group_name"]

        def unit(tx: Tx, reading: Reading | None) -> pb.RejectCallResponse:
            call = waiting_row(tx, request)
            if own:
                check_first(tx, call, party)
            else:
                check_voter(tx, call, self._fresh(reading).task, caller)
            _cast(tx, waiting, caller, request, trace_id, approve=False)
            ended = awaiting.rejected(request.call_id, caller.principal, request.notes)
            pendings.end(tx, call, ended)
            return pb.RejectCallResponse()

        answer = await self._vote(waiting if not own else Waiting(waiting.row), request, caller, unit)
        answer.call.CopyFrom(self._record(request.call_id))
        return answer

    async def look_up(self, request: pb.GetCallRequest, group: str) -> pb.GetCallResponse:
        """A call that `group` (empty: everybody) may see; one that waited in vain is ended first."""

        def query(tx: Tx) -> pb.GetCallResponse:
            return call_records.get(tx, request, group, operator_needed=self._limits.operator_votes)

        found = self._database.read(query)
        if found.call.state != pb.CALL_STATE_AWAITING_APPROVAL:
            return found
        lapsed = await self._database.write(partial(pendings.lapse, call_id=found.call.call_id))
        return self._database.read(query) if lapsed else found

    async def _vote(self, waiting: Waiting, request: Request, caller: Caller, unit: Callable[..., R]) -> R:
        """Runs the unit on what governance says within this RPC; what turns out void is ended."""
        row = waiting.row
        for _ in range(_TRIES):
            reading = None
            if waiting.skill is not None:
                reading = await self._tasks.read(row["task_id"], row["group_name"], approvals=True)
            try:
                return await self._idempotency.run(caller.principal, request, partial(unit, reading=reading))
            except _Stale:
                continue
            except NanoclawError as error:
                if error.reason in (awaiting.APPROVAL_EXPIRED, awaiting.APPROVAL_VOID):
                    await self._end(row["call_id"], error)
                raise
        raise NanoclawError(
            Kind.UNAVAILABLE, "GOVERNANCE_UNAVAILABLE", "the task could not be read in time", next_step="vote again"
        )

    async def _end(self, call_id: str, error: NanoclawError) -> None:
        def unit(tx: Tx) -> None:
            row = records.by_id(tx, call_id)
            if row is not None and row["state"] == State.AWAITING_APPROVAL.value:
                pendings.end(tx, row, awaiting.lapsed(call_id, error.reason, error.message))

        await self._database.write(unit)

    def _recall(self, call_id: str) -> Waiting:
        row, ciphertext = self._database.read(lambda tx: (records.by_id(tx, call_id), kept_params.read(tx, call_id)))
        if row is None:
            raise not_found("call", call_id, "call_id", PENDING)
        if row["state"] != State.AWAITING_APPROVAL.value or ciphertext is None:
            return Waiting(row)
        raw = self._seal.open(call_id, ciphertext)
        return Waiting(row, *self._broker.registry.find(row["provider"], row["action"], raw))

    def _decide(
        self, tx: Tx, waiting: Waiting, reading: Reading | None, caller: Caller, request: pb.ApproveCallRequest
    ) -> Ruling:
        """The decision with this vote among those cast. Raises what keeps the vote from being cast."""
        call = waiting_row(tx, request)
        task = self._fresh(reading).task
        check_voter(tx, call, task, caller)
        ballot = pendings.ballot(tx, call)
        mine = vote.Vote(caller.principal, vote.party_of(caller), request.params_digest)
        ballot = replace(ballot, votes=(*ballot.votes, mine))
        assert waiting.skill is not None
        facts = findings.gather_again(tx, waiting.ask, waiting.skill, self._limits, task, ballot)
        decision = decide(facts)
        if decision.outcome is Outcome.DENY:
            raise refused(decision, remedy(facts).steps)
        return Ruling(facts, decision)

    def _fresh(self, reading: Reading | None) -> Reading:
        if reading is None or not reading.fresh(self._monotonic()):
            raise _Stale
        return reading

    def _record(self, call_id: str) -> pb.CallRecord:
        return self._database.read(lambda tx: call_records.of_call(tx, call_id))


def _cast(tx: Tx, waiting: Waiting, caller: Caller, request: Request, trace_id: str, *, approve: bool) -> None:
    votes.cast(
        tx,
        request.call_id,
        waiting.row["task_id"],
        caller,
        request.params_digest,
        approve=approve,
        notes=request.notes,
        request_id=request.request_id,
        trace_id=trace_id,
    )
