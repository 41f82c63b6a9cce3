"""UNKNOWN is a state that people see, and that ends: by asking the provider, under its key, by undoing, by a person."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.ledger import TRANSITIONS, State, UnknownEnd
from nanoclaw_broker.providers import Action, ActionFailed, Effect, Environment, Kind, Level, Params, Provider, Result
from nanoclaw_broker.settlement import CODE, LONGEST_SECONDS, STATE, Outcome, pause_after
from nanoclaw_core.errors import NanoclawError

UNKNOWN, RECONCILED = pb.CALL_STATE_UNKNOWN, pb.CALL_STATE_RECONCILED
L2 = pb.ACCESS_LEVEL_L2


class Text(Params):
    """What is done."""

    text: str


class Doing(Action[Text]):
    """Does it at a far side of its own, and loses the reply."""

    level: ClassVar[Level] = Level.L2
    kind: ClassVar[Kind] = Kind.MUTATING
    description: ClassVar[str] = "does it and loses the reply"
    params = Text

    def __init__(self, ends_by: UnknownEnd) -> None:
        self.name, self.unknown_ends_by = ends_by.value, ends_by  # type: ignore[misc]
        self.done: dict[str, str] = {}
        self.requests: list[str] = []
        self.arrives = True
        self.replies = False

    async def execute(self, params: Text, effect: Effect) -> Result:
        """The far side does it once for each key."""
        self.requests.append(effect.key)
        if self.arrives:
            self.done.setdefault(effect.key, params.text)
        if not self.replies:
            raise ConnectionResetError
        return Result({"did": self.done[effect.key]}, "did it")

    async def verify(self, params: Text, effect: Effect) -> Result | None:
        """Whether the far side knows it."""
        return Result({"did": params.text}, "there") if effect.key in self.done else None

    async def compensate(self, params: Text, effect: Effect) -> Result:
        """Undoes it."""
        self.requests.append(f"undo {effect.key}")
        self.done.pop(effect.key, None)
        return Result(None, "undone there")


@pytest.fixture
def doing() -> dict[str, Doing]:
    return {end.value: Doing(end) for end in UnknownEnd if end is not UnknownEnd.NONE}


@pytest.fixture(autouse=True)
def installed(doing: dict[str, Doing], monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider `far`, beside the counting one."""
    from nanoclaw_broker import registry

    load = registry.load

    def loading(environment: Environment, builtin: Any, found: Any = None) -> list[Provider]:
        return [*load(environment, builtin, found), Provider("far", "far away", tuple(doing.values()))]

    monkeypatch.setattr(registry, "load", loading)


async def until(read: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(10):
        while not wanted(found := await read()):
            await asyncio.sleep(0.005)
        return found


async def lost(broker: Any, action: str, **fields: Any) -> pb.CallResponse:
    """A call whose reply is lost."""
    answer = await broker.call("far", action, {"text": "hello"}, **fields)
    assert answer.code == "EFFECT_UNKNOWN"
    return answer


def kept(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM ext_params").fetchone()[0])


async def settled(broker: Any, call_id: str) -> pb.CallRecord:
    return await until(lambda: broker.record(call_id), lambda record: record.state != UNKNOWN)


def test_every_outcome_is_a_way_out_of_unknown() -> None:
    """And only out of it: the table of transitions and that of outcomes say the same."""
    assert set(STATE.values()) == TRANSITIONS[State.UNKNOWN]
    assert STATE.keys() == CODE.keys() == set(Outcome)
    assert [pause_after(n) for n in (0, 1, 2)] == [5.0, 10.0, 20.0]
    assert pause_after(50) == LONGEST_SECONDS


async def test_what_the_provider_knows_has_happened_and_its_result_is_answered_from_then_on(
    start: Any, doing: dict[str, Doing]
) -> None:
    """VERIFY: nothing is sent again, the same request gets the result, the kept parameters are gone."""
    async with start(reconcile_seconds=0.02) as broker:
        await broker.grant("far")
        answer = await lost(broker, "verify", request_id="r", idempotency_key="k")
        record = await settled(broker, answer.call_id)
        assert (record.state, record.code) == (RECONCILED, "OK")
        assert (record.settlement.outcome, record.settlement.principal) == (
            pb.SETTLE_OUTCOME_HAPPENED,
            "service:broker",
        )
        for fields in ({"request_id": "r"}, {"request_id": "another"}):
            again = await broker.call("far", "verify", {"text": "hello"}, idempotency_key="k", **fields)
            assert (again.status, again.code, again.data_json, again.replayed) == (
                pb.CALL_STATUS_EXECUTED,
                "OK",
                '{"did":"hello"}',
                True,
            )
        assert len(doing["verify"].requests) == 1
        assert kept(broker.database) == 0


async def test_what_the_provider_does_not_know_counts_as_not_done_only_after_it_has_been_quiet(
    start: Any, doing: dict[str, Doing]
) -> None:
    """A request under way may still land: until then it stays UNKNOWN; afterwards its key stays used."""
    doing["verify"].arrives = False
    async with start(reconcile_seconds=0.02, quiet_seconds=3600.0) as broker:
        await broker.grant("far")
        answer = await lost(broker, "verify", request_id="r", idempotency_key="k")
        asked: list[str] = []
        verify = doing["verify"].verify

        async def counting(params: Text, effect: Effect) -> Result | None:
            asked.append(effect.key)
            return await verify(params, effect)

        doing["verify"].verify = counting  # type: ignore[method-assign]
        await until(lambda: asyncio.sleep(0, asked), lambda found: len(found) >= 3)
        assert (await broker.record(answer.call_id)).state == UNKNOWN
    async with start(reconcile_seconds=0.02, quiet_seconds=0.05) as broker:
        record = await settled(broker, answer.call_id)
        assert (record.state, record.code) == (RECONCILED, "NOT_DONE")
        again = await broker.call("far", "verify", {"text": "hello"}, request_id="r2", idempotency_key="k")
        assert (again.status, again.code) == (pb.CALL_STATUS_FAILED, "NOT_DONE")
        assert again.next_steps
        assert len(doing["verify"].requests) == 1


async def test_under_the_providers_key_it_is_sent_again_and_happens_once(start: Any, doing: dict[str, Doing]) -> None:
    """PROVIDER_KEY: the same key each time, so the far side does it once."""
    acting = doing["provider_key"]
    async with start(reconcile_seconds=0.02) as broker:
        await broker.grant("far")
        answer = await lost(broker, "provider_key")
        acting.replies = True
        record = await settled(broker, answer.call_id)
        assert (record.state, record.code) == (RECONCILED, "OK")
        assert acting.requests == [answer.call_id] * len(acting.requests)
        assert list(acting.done) == [answer.call_id]


@pytest.mark.parametrize("ends_by", ["provider_key", "compensate"])
@pytest.mark.parametrize("stopped_by", ["revoke", "freeze"])
async def test_nothing_is_sent_again_once_the_grant_has_ended_or_the_kill_switch_is_pulled(
    start: Any, doing: dict[str, Doing], ends_by: str, stopped_by: str
) -> None:
    """What changes the world needs a grant that stands and no freeze, also when it is only repeated or undone."""
    acting = doing[ends_by]
    async with start(reconcile_seconds=0.3) as broker:
        await broker.grant("far")
        answer = await lost(broker, ends_by)
        if stopped_by == "revoke":
            await broker.revoke("far")
        else:
            await broker.founder.Freeze(pb.FreezeRequest(request_id="f", max_level=pb.ACCESS_LEVEL_L1, reason="stop"))
        acting.replies, sent = True, list(acting.requests)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await settled(broker, answer.call_id)
        assert acting.requests == sent
        if stopped_by == "revoke":
            await broker.grant("far")
        else:
            await broker.founder.Unfreeze(pb.UnfreezeRequest(request_id="u", reason="go"))
        assert (await settled(broker, answer.call_id)).state in (RECONCILED, pb.CALL_STATE_COMPENSATED)


async def test_what_can_be_undone_is_undone(start: Any, doing: dict[str, Doing]) -> None:
    """COMPENSATE: whatever had happened is gone afterwards."""
    async with start(reconcile_seconds=0.02) as broker:
        await broker.grant("far")
        answer = await lost(broker, "compensate")
        record = await settled(broker, answer.call_id)
        assert (record.state, record.code, doing["compensate"].done) == (pb.CALL_STATE_COMPENSATED, "UNDONE", {})
        assert doing["compensate"].requests == [answer.call_id, f"undo {answer.call_id}"]


async def test_what_does_no_harm_is_given_up_at_once(start: Any, doing: dict[str, Doing]) -> None:
    """HARMLESS: nobody needs to know; nothing is asked."""
    async with start() as broker:
        await broker.grant("far")
        answer = await lost(broker, "harmless")
        record = await settled(broker, answer.call_id)
        assert (record.state, record.settlement.outcome) == (pb.CALL_STATE_ABANDONED, pb.SETTLE_OUTCOME_GIVEN_UP)
        assert len(doing["harmless"].requests) == 1


async def test_a_provider_that_cannot_tell_is_asked_again_after_doubling_pauses(
    start: Any, doing: dict[str, Doing]
) -> None:
    """Its trouble says nothing about the call, and one call in trouble does not keep the next."""
    acting, tries = doing["verify"], []

    async def unsure(params: Text, effect: Effect) -> Result | None:
        tries.append(params.text)
        if len(tries) < 4:
            raise ActionFailed("NOT_NOW", "ask later") if len(tries) % 2 else OSError
        return Result(None, "there")

    acting.verify = unsure  # type: ignore[method-assign]
    async with start(reconcile_seconds=0.02) as broker:
        await broker.grant("far")
        answer = await lost(broker, "verify")
        other = await lost(broker, "harmless")
        assert (await settled(broker, other.call_id)).state == pb.CALL_STATE_ABANDONED
        assert (await settled(broker, answer.call_id)).state == RECONCILED
        assert tries == ["hello"] * 4


async def test_a_crash_does_not_keep_a_call_from_being_cleared_up(start: Any, doing: dict[str, Doing]) -> None:
    """The next process finds the call and its parameters in the database."""
    async with start() as broker:
        await broker.grant("far")
        answer = await lost(broker, "verify")
        assert (await broker.founder.GetStatus(pb.GetStatusRequest())).HasField("oldest_unknown_at")
    async with start(reconcile_seconds=0.02) as broker:
        assert (await settled(broker, answer.call_id)).state == RECONCILED
        assert not (await broker.founder.GetStatus(pb.GetStatusRequest())).HasField("oldest_unknown_at")


@pytest.mark.parametrize(
    ("outcome", "state", "status", "code"),
    [
        (pb.SETTLE_OUTCOME_HAPPENED, RECONCILED, pb.CALL_STATUS_EXECUTED, "OK"),
        (pb.SETTLE_OUTCOME_DID_NOT_HAPPEN, RECONCILED, pb.CALL_STATUS_FAILED, "NOT_DONE"),
        (pb.SETTLE_OUTCOME_UNDONE, pb.CALL_STATE_COMPENSATED, pb.CALL_STATUS_FAILED, "UNDONE"),
        (pb.SETTLE_OUTCOME_GIVEN_UP, pb.CALL_STATE_ABANDONED, pb.CALL_STATUS_TIMEOUT, "GIVEN_UP"),
    ],
)
async def test_a_person_settles_what_nobody_else_can(
    broker: Any, outcome: Any, state: Any, status: Any, code: str
) -> None:
    """Once, with how it is known; the agent that asks again is told, and nothing is executed."""
    await broker.grant("far")
    answer = await lost(broker, "verify", request_id="r")
    request = pb.SettleRequest(request_id="s", call_id=answer.call_id, outcome=outcome, note="looked there")
    response = await broker.founder.Settle(request)
    assert (response.call.state, response.call.code) == (state, code)
    assert (response.call.settlement.principal, response.call.settlement.note) == ("operator:founder", "looked there")
    assert await broker.founder.Settle(request) == response
    again = await broker.call("far", "verify", {"text": "hello"}, request_id="r")
    assert (again.status, again.code, again.facts["settled_by"]) == (status, code, "operator:founder")
    (listed,) = (await broker.founder.ListCalls(pb.ListCallsRequest(states=[state]))).calls
    assert listed == response.call
    with pytest.raises(NanoclawError) as refused:
        await broker.founder.Settle(
            pb.SettleRequest(request_id="s2", call_id=answer.call_id, outcome=outcome, note="again")
        )
    assert refused.value.reason == "NOT_UNKNOWN"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"call_id": "no-such"}, "CALL_NOT_FOUND"),
        ({"outcome": pb.SETTLE_OUTCOME_UNSPECIFIED}, "INVALID_FIELD"),
        ({"note": "  "}, "INVALID_FIELD"),
        ({"note": "x" * 501}, "INVALID_FIELD"),
        ({"request_id": ""}, "INVALID_FIELD"),
    ],
)
async def test_a_settlement_that_says_too_little_is_refused(broker: Any, fields: dict[str, Any], reason: str) -> None:
    """Each with the field that is wrong; the call stays UNKNOWN."""
    await broker.grant("far")
    answer = await lost(broker, "verify")
    given = {"request_id": "s", "call_id": answer.call_id, "outcome": pb.SETTLE_OUTCOME_HAPPENED, "note": "seen"}
    with pytest.raises(NanoclawError) as refused:
        await broker.founder.Settle(pb.SettleRequest(**{**given, **fields}))
    assert refused.value.reason == reason
    assert (await broker.record(answer.call_id)).state == UNKNOWN


def test_an_entry_point_that_ends_by_nobody_must_be_of_l3(tmp_path: Path) -> None:
    """An L2 action whose end nobody could tell does not get in."""
    from nanoclaw_broker.registry import Registry
    from nanoclaw_broker.secrets import Secrets

    with pytest.raises(NanoclawError, match="must be of L3"):
        Registry([Provider("far", "far away", (Doing(UnknownEnd.NONE),))], Secrets(tmp_path))
