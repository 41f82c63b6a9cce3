"""The broker at work: facts gathered, decision taken, claimed and carried out; what crashed is settled at the start."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import answers, asking, calls, findings, params, pendings, refusals
from nanoclaw_broker.asking import Asked
from nanoclaw_broker.call import decide
from nanoclaw_broker.calls import End, Entry, Stake
from nanoclaw_broker.decision import Decision, Outcome
from nanoclaw_broker.execution import Claimed, Exchange, Executor
from nanoclaw_broker.facts import Facts, Recorded
from nanoclaw_broker.governance import Reading, Tasks
from nanoclaw_broker.kept_params import Seal
from nanoclaw_broker.ledger import EFFECT_UNKNOWN, State
from nanoclaw_broker.policy import COUNTED, RELAY_LIMITS, Lane, Limits
from nanoclaw_broker.providers import Effect
from nanoclaw_broker.registry import Registry
from nanoclaw_broker.secrets import Secrets
from nanoclaw_broker.visibility import grantee
from nanoclaw_core.errors import Kind as ErrorKind
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.ids import NewId
from nanoclaw_core.principal import Caller
from nanoclaw_store import Database, Tx
from nanoclaw_telemetry import TraceContext

T = TypeVar("T")
log = structlog.get_logger()

_TRIES = 5
_ASKS = frozenset({Outcome.ASK_TASK, Outcome.ASK_APPROVALS})


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision that is in the ledger, if it belongs there. answer: the recorded one, of a refusal or a replay."""

    facts: Facts
    decision: Decision
    response: pb.CallResponse | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a call, for who asked and for who watches."""

    response: pb.CallResponse
    ruling: Ruling


class Broker:
    """One per process.

    on_unknown: told when a call has ended UNKNOWN. on_waiting: when one waits for votes. monotonic: seconds, for how
    old a reading of a task is.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        tasks: Tasks,
        secrets: Secrets,
        key: bytes,
        limits: Limits,
        *,
        relay_limits: Limits = RELAY_LIMITS,
        most_seconds: float = 25.0,
        on_unknown: Callable[[], None] = lambda: None,
        on_waiting: Callable[[], None] = lambda: None,
        new_id: NewId | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.registry = registry
        self._tasks = tasks
        self._secrets = secrets
        self._key = key
        self._seal = Seal(key)
        self._limits = {Lane.CALL: limits, Lane.RELAY: relay_limits}
        self._new_id = new_id or asking.rising_ids()
        self._monotonic = monotonic
        self._executor = Executor(database, secrets, most_seconds, monotonic)
        self._on_unknown = on_unknown
        self._on_waiting = on_waiting
        self._running: dict[str, asyncio.Task[Told]] = {}
        self._attended: set[asyncio.Task[Any]] = set()

    async def call(self, caller: Caller, request: pb.CallRequest, trace: TraceContext) -> Told:
        """Decides, and carries out what is allowed. It goes on to its end even if the caller goes away.

        Raises INVALID_FIELD, ATTESTATION_NOT_YOURS, GOVERNANCE_UNAVAILABLE, and what the store raises.
        """
        return await self.carry(self.read(caller, request), caller, trace)

    def read(self, caller: Caller, request: pb.CallRequest) -> Asked:
        """The request, read. Raises INVALID_FIELD, ATTESTATION_NOT_YOURS."""
        return asking.read(request, caller, grantee(caller), self.registry, self._key)

    async def carry(self, asked: Asked, caller: Caller, trace: TraceContext, exchange: Exchange | None = None) -> Told:
        """What `call` does with a request that was read; it is carried out by the exchange, if there is one."""
        call_id = self._new_id()
        entry = asking.entry(asked, call_id, caller, trace.trace_id, self._secrets, self._seal)
        return await asyncio.shield(self.under_way(call_id, self._run(asked, entry, exchange)))

    def under_way(self, call_id: str, work: Coroutine[Any, Any, Told]) -> "asyncio.Task[Told]":
        """Has a call go on to its end, also without who asked for it; whoever asks again meanwhile waits for it."""
        task = asyncio.create_task(work)
        self._running[call_id] = task
        task.add_done_callback(partial(self._forget, call_id))
        return task

    async def attend(self, work: Coroutine[Any, Any, T]) -> T:
        """Has something that may begin a call go on to its end, also without who asked for it."""
        task = asyncio.create_task(work)
        self._attended.add(task)
        task.add_done_callback(self._attended.discard)
        return await asyncio.shield(task)

    async def stands(self, asked: Asked) -> Decision:
        """Whether a call that is under way would still be allowed.

        Raises GOVERNANCE_UNAVAILABLE, and what the store raises.
        """
        reading: Reading | None = None
        for _ in range(_TRIES):
            facts = self.database.read(partial(self._gather, asked=asked, reading=reading))
            decision = decide(facts.under_way)
            if decision.outcome not in _ASKS:
                return decision
            reading = await self._read_task(asked, decision)
        raise _unsettled(asked)

    async def carry_out(self, claimed: Claimed, ruling: Ruling, exchange: Exchange | None = None) -> Told:
        """Executes what is claimed, and answers when its end is durable."""
        response = await self._executor.carry_out(claimed, exchange)
        if response.code == EFFECT_UNKNOWN:
            self._on_unknown()
        return Told(response, ruling)

    async def explain(self, caller: Caller, group: str, request: pb.ExplainCallRequest) -> pb.ExplainCallResponse:
        """The decision that `call` would reach now, without any effect."""
        asked = asking.read(request, caller, group, self.registry, self._key)
        reading: Reading | None = None
        for _ in range(_TRIES):
            facts = self.database.read(partial(self._gather, asked=asked, reading=reading))
            decision = decide(facts)
            if decision.outcome not in _ASKS:
                return refusals.explanation(facts, decision)
            reading = await self._read_task(asked, decision)
        raise _unsettled(asked)

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Waits for what is under way; what is not done by then ends without a reply, and that is settled too."""
        loop = asyncio.get_running_loop()
        over = loop.time() + grace_seconds
        while running := [*self._attended, *self._running.values()]:  # a vote may still begin a call
            _, late = await asyncio.wait(running, timeout=max(0.0, over - loop.time()))
            for task in late:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _forget(self, call_id: str, task: "asyncio.Task[Told]") -> None:
        del self._running[call_id]
        if not task.cancelled():
            task.exception()  # retrieved, for nobody may be waiting any more

    async def _run(self, asked: Asked, entry: Entry, exchange: Exchange | None) -> Told:
        ruling = await self._rule(asked, entry)
        match ruling.decision.outcome:
            case Outcome.ALLOW:
                assert asked.action is not None
                assert asked.params is not None
                notes = dict(ruling.decision.facts)
                ask, made_at = asked.ask, ruling.facts.now
                effect = Effect(entry.call_id, ask.group, ask.task_id, made_at)
                stake = Stake(ask.group, made_at, ruling.facts.budget.worst_micros, ruling.facts.circuit.name)
                claimed = Claimed(
                    effect, asked.action, asked.params, notes, entry.trace_id, stake, kept=bool(entry.kept)
                )
                return await self.carry_out(claimed, ruling, exchange)
            case Outcome.REPLAY:
                return Told(await self._replay(ruling), ruling)
            case Outcome.AWAIT:
                assert ruling.response is not None
                self._on_waiting()
                return Told(ruling.response, ruling)
            case _:
                assert ruling.response is not None
                return Told(ruling.response, ruling)

    async def _rule(self, asked: Asked, entry: Entry) -> Ruling:
        """Decides inside the transaction that writes the claim or the refusal."""
        reading: Reading | None = None
        for _ in range(_TRIES):
            unit = partial(self._decide_and_write, asked=asked, entry=entry, reading=reading)
            ruling = await self.database.write(unit)
            if ruling.decision.outcome not in _ASKS:
                return ruling
            reading = await self._read_task(asked, ruling.decision)
        raise _unsettled(asked)

    def _decide_and_write(self, tx: Tx, *, asked: Asked, entry: Entry, reading: Reading | None) -> Ruling:
        facts = self._gather(tx, asked=asked, reading=reading)
        decision = decide(facts)
        capability_id = decision.capability.id if decision.capability is not None else ""
        match decision.outcome:
            case Outcome.ALLOW:
                calls.claim(tx, facts, capability_id, entry)
                return Ruling(facts, decision)
            case Outcome.AWAIT:
                assert decision.capability is not None
                digest = params.digest(asked.ask.provider, asked.ask.action, asked.raw)
                answer = pendings.open_(tx, facts, decision.capability, entry, digest)
                return Ruling(facts, decision, answer)
            case Outcome.DENY if decision.code in COUNTED:
                calls.count_refusal(tx, asked.ask.group, decision.code)
                return Ruling(facts, decision, refusals.refusal(facts, decision))
            case Outcome.DENY:
                response = refusals.refusal(facts, decision, entry.call_id)
                reason = answers.one_line(response.message)
                end = End(State.DENIED, decision.code, reason, "", response.SerializeToString())
                calls.deny(tx, facts, capability_id, entry, end)
                return Ruling(facts, decision, response)
            case Outcome.REPLAY:
                assert decision.recorded is not None
                return Ruling(facts, decision, self._recorded(tx, decision.recorded))
            case _:
                return Ruling(facts, decision)

    def _recorded(self, tx: Tx, recorded: Recorded) -> pb.CallResponse | None:
        """The answer to a call that is in the ledger; None while it is under way."""
        if recorded.state is State.AWAITING_APPROVAL and not pendings.lapse(tx, recorded.call_id):
            return pendings.answer(tx, recorded.call_id, operator_needed=self._limits[Lane.CALL].operator_votes)
        answer = calls.answer_of(tx, recorded.call_id)
        return pb.CallResponse.FromString(answer) if answer is not None else None

    def _gather(self, tx: Tx, *, asked: Asked, reading: Reading | None) -> Facts:
        fresh = reading if reading is not None and reading.fresh(self._monotonic()) else None
        task_read = not asked.ask.task_id or fresh is not None
        task = fresh.task if fresh is not None else None
        limits = self._limits[asked.ask.lane]
        return findings.gather(tx, asked.ask, asked.skill, limits, task, task_read=task_read)

    async def _read_task(self, asked: Asked, decision: Decision) -> Reading:
        approvals = decision.outcome is Outcome.ASK_APPROVALS
        return await self._tasks.read(asked.ask.task_id, asked.ask.group, approvals=approvals)

    async def _replay(self, ruling: Ruling) -> pb.CallResponse:
        """The recorded answer; that of a call which is still under way here is waited for."""
        recorded = ruling.decision.recorded
        assert recorded is not None
        answer = pb.CallResponse()
        answer.CopyFrom(ruling.response or await self.outcome(recorded.call_id))
        answer.replayed = True
        return answer

    async def outcome(self, call_id: str) -> pb.CallResponse:
        """What came of a call that was claimed; waits for one that is under way here."""
        running = self._running.get(call_id)
        if running is not None:
            return (await asyncio.shield(running)).response
        recorded = self.database.read(partial(calls.answer_of, call_id=call_id))
        return pb.CallResponse.FromString(recorded) if recorded is not None else answers.under_way(call_id)


def _unsettled(asked: Asked) -> NanoclawError:
    return NanoclawError(
        ErrorKind.UNAVAILABLE,
        "GOVERNANCE_UNAVAILABLE",
        f"task {asked.ask.task_id} could not be read in time for a decision",
        next_step="send it again",
    )
