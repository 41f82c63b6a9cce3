"""A model of task × gate × dispatch claim: one task, two dispatchers that crash and sleep, and agents.

The decisions are the real ones, of governance and of the dispatcher; the model is what lies around them: who has read
what, which row is written, which process runs. Each step is as atomic as the real one: an RPC, a transaction, a call of
the runtime. Time does not pass: pauses and timeouts are steps that may happen.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from walk import Step, Wrong

from nanoclaw_core.principal import Caller, Role
from nanoclaw_dispatcher import dispatch as rules
from nanoclaw_dispatcher.dispatch import Rule
from nanoclaw_dispatcher.ending import End, Outcome, RetryPolicy, settle
from nanoclaw_dispatcher.lifecycle import LIVE, AttemptState, Code, DispatchState
from nanoclaw_dispatcher.task import Task as Seen
from nanoclaw_dispatcher.task import TaskState
from nanoclaw_governance import approval, draft, edit, transition
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.task import Task
from nanoclaw_governance.transition import Move

NOW = "2026-11-21T12:00:00.000000Z"
GROUPS = frozenset({"developer", "writer", "security", "main"})
POLICY = Policy()
MOST_ATTEMPTS = 2
RETRY = RetryPolicy(attempts=MOST_ATTEMPTS)
DISPATCHER = Caller("service:dispatcher")
OPERATOR = Caller("operator:founder", Role.ADMIN)


class Attempt(NamedTuple):
    number: int
    fence: int
    state: AttemptState


class Row(NamedTuple):
    """A dispatch on disk, with its lease. owner: -1 nobody."""

    key: str
    group: str
    rule: Rule
    round: int
    version: int
    seen: int
    claims: bool
    owner: int
    attempt: Attempt
    state: DispatchState = DispatchState.ENQUEUED
    code: Code = Code.NONE
    reason: str = ""
    failures: int = 0

    @property
    def view(self) -> rules.Dispatch:
        return rules.Dispatch(
            self.key, self.key, self.group, self.rule, self.round, self.version, self.seen, self.state, self.code,
            self.reason,
        )  # fmt: skip

    @property
    def live(self) -> Attempt | None:
        return self.attempt if self.attempt.state in LIVE else None

    @property
    def attempt_id(self) -> str:
        return _attempt_id(self.key, self.attempt.number)


class Run(NamedTuple):
    """What the runtime has of an attempt. status: created, running, exited, lost, sealed."""

    attempt_id: str
    group: str
    status: str
    starts: int = 0
    code: int = 0


class Pursuit(NamedTuple):
    """Where a dispatcher is with an attempt. at: the step it takes next."""

    key: str
    at: str
    wish: Code = Code.NONE
    refusal: Code = Code.NONE
    outcome: Outcome = Outcome.EXITED
    moved: bool = False
    seen: int = 0


class One(NamedTuple):
    """A dispatcher's memory. reading: what it is about to decide on. start: what it decided, of `reading`."""

    reading: Seen | None = None
    start: rules.Start | None = None
    pursuits: tuple[Pursuit, ...] = ()


class Limits(NamedTuple):
    """How much may go wrong on one path."""

    crashes: int = 0
    lapses: int = 0
    deaths: int = 0
    late: int = 0
    operator: int = 0


class World(NamedTuple):
    """Everything. approved: by whom, and in which round. done: requests that governance has granted."""

    task: Task
    left: Limits
    approved: tuple[str, int] | None = None
    rows: tuple[Row, ...] = ()
    runs: tuple[Run, ...] = ()
    done: frozenset[str] = frozenset()
    ones: tuple[One, One] = (One(), One())
    fence: int = 0
    calm: bool = True
    """No dispatcher will die or sleep: then steps that only its successor could tell apart are one."""


def begin(group: str = "developer", gate: str = "SECURITY", **limits: int) -> World:
    """A READY task."""
    task = draft.new_task("t", title="t", task_type="BUG", assigned_group=group, gate=gate)
    draft.refuse_unapprovable(gate, 0, group, ())
    left = Limits(**limits)
    return World(
        task._replace(state="READY", previous_state="TRIAGED", version=3), left, calm=not left.crashes + left.lapses
    )


def key(world: World) -> tuple[int, ...]:
    """What tells two worlds apart, cheaply; the two dispatchers are alike, so worlds that swap them are the same."""
    whole = _numbers(world)
    if world.ones[0] == world.ones[1] and not any(row.owner >= 0 for row in world.rows):
        return whole
    return min(whole, _numbers(_swapped(world)))


def _numbers(world: World) -> tuple[int, ...]:
    return tuple(_KNOWN.setdefault(part, len(_KNOWN)) for part in world)


def _swapped(world: World) -> World:
    rows = tuple(row._replace(owner=1 - row.owner) if row.owner >= 0 else row for row in world.rows)
    return world._replace(rows=rows, ones=(world.ones[1], world.ones[0]))


_KNOWN: dict[Any, int] = {}
_attempt_id = cache(rules.attempt_id)


class Model:
    """The steps. Its switches take single guards out; the pure guards are patched where they live.

    Of the engine: a start is decided again in the transaction that inserts it, the runtime is asked before an attempt
    is given up for lost, what runs is adopted, what was not launched is sealed, an older fence is not bound. Of the
    database: the unique key, the one live attempt of a group. Of the runtime: it starts only what was created.

    readings_that_age: how many dispatchers at once may hold a reading that grows old; the others decide as they read.
    """

    def __init__(self, max_rework: int = 1, readings_that_age: int = 1, dispatchers: int = 2) -> None:
        self.dispatchers = dispatchers
        self.readings_that_age = readings_that_age
        self.policy = rules.Policy(GROUPS, max_rework)
        self._seen = cache(seen)
        self.decides_again_in_the_transaction = True
        self.keys_are_unique = True
        self.one_live_attempt = True
        self.asks_the_runtime = True
        self.adopts = True
        self.starts_only_what_was_created = True
        self.seals = True
        self.checks_the_binding = True

    def steps(self, world: World) -> Iterator[Step]:
        """Everything that may happen next."""
        for i in range(self.dispatchers):
            yield from self._dispatcher(world, i)
            for pursuit in world.ones[i].pursuits:
                yield from self._pursue(world, i, pursuit)
        for run in world.runs:
            yield from self._agent(world, run)
        yield from self._operator(world)

    def check(self, world: World) -> str:
        """What must hold in every state."""
        live = [row.group for row in world.rows if row.live]
        if len(live) > len(set(live)):
            return "two live attempts for one task and group"
        running = [run.group for run in world.runs if run.status == "running"]
        if len(running) > len(set(running)):
            return "two agents of one group run for one task"
        if any(run.starts > 1 for run in world.runs):
            return "an attempt ran twice"
        if len({row.key for row in world.rows}) < len(world.rows):
            return "a dispatch key was used twice"
        if any(row.attempt.number > MOST_ATTEMPTS for row in world.rows):
            return "tried more often than the limit allows"
        if world.task.state == "DONE" and world.task.gate != "NONE":
            if world.approved is None:
                return "done without an approval"
            if world.approved[0] in world.task.has_executed:
                return "approved by one that executed it"
            if world.approved[1] != world.task.round:
                return "an approval outlived rework"
        return ""

    def is_end(self, world: World) -> bool:
        """The task is where it can rest, and nothing is left open or running."""
        return (
            world.task.state in ("DONE", "BLOCKED")
            and not any(row.view.is_open for row in world.rows)
            and not any(run.status == "running" for run in world.runs)
        )

    # a dispatcher

    def _dispatcher(self, world: World, i: int) -> Iterator[Step]:
        one = world.ones[i]
        if one.reading is None:
            reads = _set(world, i, one._replace(reading=self._seen(world.task)))
            if sum(each.reading is not None for each in world.ones) < self.readings_that_age:
                yield Step(f"d{i} reads", reads)
            else:
                yield from self._decide(reads, i, self._seen(world.task))
        elif one.start is None:
            yield from self._decide(world, i, one.reading)
        else:
            told = _set(world, i, one._replace(start=None, reading=None))
            yield Step(f"d{i} begins {one.start.key}", self._begin(told, i, one.reading, one.start))
        for row in world.rows:
            if not row.view.is_open:
                continue
            if row.owner == i and row.live is None:
                yield Step(f"d{i} makes the next attempt", self._next(world, i, row))
            if row.owner == -1 or (row.owner != i and world.left.lapses):
                left = world.left if row.owner == -1 else world.left._replace(lapses=world.left.lapses - 1)
                adopted = _put(world._replace(left=left), row._replace(owner=i))
                if row.live is not None:
                    at = "inspect" if self.asks_the_runtime else "given up for lost"
                    adopted = _pursuit(adopted, i, Pursuit(row.key, at))
                yield Step(f"d{i} adopts {row.key}", adopted, row.owner == -1)
        if world.left.crashes and one != One():
            left = world.left._replace(crashes=world.left.crashes - 1)
            rows = tuple(row._replace(owner=-1) if row.owner == i else row for row in world.rows)
            yield Step(f"d{i} crashes", _set(world._replace(left=left, rows=rows), i, One()), False)

    def _decide(self, world: World, i: int, reading: Seen) -> Iterator[Step]:
        """One thing at a time of what the decision says; then it reads again."""
        decision = rules.decide(reading, [row.view for row in world.rows], self.policy)
        told = _set(world, i, world.ones[i]._replace(reading=None))
        for key in decision.withdraw:
            row = _row(world, key)
            pursuit = next((p for p in world.ones[i].pursuits if p.key == key), None)
            if row.owner != i:
                continue
            if pursuit is not None and pursuit.wish is Code.NONE:
                yield Step(f"d{i} withdraws {key}", _pursuit(told, i, pursuit._replace(wish=Code.WITHDRAWN)))
            elif pursuit is None and row.live is None:
                closed = row._replace(
                    state=DispatchState.CANCELLED, code=Code.WITHDRAWN, owner=-2, seen=max(row.seen, reading.version)
                )
                yield Step(f"d{i} closes {key}", _put(told, closed))
        step = decision.step
        if isinstance(step, rules.Start) and self.decides_again_in_the_transaction:
            yield Step(f"d{i} begins {step.key}", self._begin(told, i, reading, step))
        elif isinstance(step, rules.Start):
            yield Step(f"d{i} wants {step.key}", _set(world, i, world.ones[i]._replace(start=step)))
        elif isinstance(step, rules.Move):
            move = Move(str(step.to_state), step.reason, "", reading.version)
            yield Step(f"d{i} moves to {step.to_state}", self._govern(told, DISPATCHER, move, step.key)[0])
        else:
            yield Step(f"d{i} decides nothing", told)

    def _begin(self, world: World, i: int, reading: Seen, start: rules.Start) -> World:
        if self.keys_are_unique and any(row.key == start.key for row in world.rows):
            return world  # the insert is refused
        if self.one_live_attempt and any(row.live and row.group == start.group for row in world.rows):
            return world
        world, fence = _fence(world)
        row = Row(
            start.key, start.group, start.rule, start.round, reading.version, reading.version,
            start.to_state is not None, i, Attempt(1, fence, AttemptState.ENQUEUED),
        )  # fmt: skip
        return _pursuit(world._replace(rows=(*world.rows, row)), i, Pursuit(row.key, "claim"))

    def _next(self, world: World, i: int, row: Row) -> World:
        if self.one_live_attempt and any(other.live and other.group == row.group for other in world.rows):
            return world
        world, fence = _fence(world)
        attempt = Attempt(row.attempt.number + 1, fence, AttemptState.ENQUEUED)
        world = _put(world, row._replace(attempt=attempt))
        return _pursuit(world, i, Pursuit(row.key, "claim"))

    def _pursue(self, world: World, i: int, p: Pursuit) -> Iterator[Step]:
        row = _row(world, p.key)
        run = _run(world, row.attempt_id)
        name = f"d{i} {p.at} {row.attempt_id[-6:]}"
        if p.wish is not Code.NONE and p.at in ("claim", "bind", "create", "start"):
            yield Step(f"{name}: not any more", _pursuit(world, i, p._replace(at="seal", outcome=Outcome.CANCELLED)))
        if p.at == "inspect":
            yield Step(name, self._inspect(world, i, p, row, run))
        elif p.at == "given up for lost":
            yield Step(name, _pursuit(world, i, p._replace(at="read", outcome=Outcome.LOST)))
        elif p.at == "claim":
            yield Step(name, self._claim(world, i, p, row))
        elif p.at == "bind":
            yield Step(name, self._bind(world, i, p, row))
        elif p.at == "create" and world.calm:  # nobody can see what is in between
            world = _put_run(world, Run(row.attempt_id, row.group, "running", 1))
            yield Step(name, self._record(world, i, p, row))
        elif p.at == "create":  # and then the look at the lease
            created = _put_run(world, Run(row.attempt_id, row.group, "created")) if run is None else world
            yield Step(name, _pursuit(created, i, p._replace(at="start")) if row.owner == i else _drop(created, i, p))
        elif p.at == "start":
            assert run is not None
            if run.status == "created" or not self.starts_only_what_was_created:
                world = _put_run(world, run._replace(status="running", starts=run.starts + 1))
            yield Step(name, _pursuit(world, i, p._replace(at="record")))
        elif p.at == "record":
            yield Step(name, self._record(world, i, p, row))
        elif p.at == "watch":
            yield from self._watch(world, i, p, row, run, name)
        elif p.at == "seal":
            if run is not None and run.status == "created" and self.seals:
                world = _put_run(world, run._replace(status="sealed"))
            elif run is not None and run.status == "running" and self.seals:
                world = _put_run(world, run._replace(status="exited", code=143))
            yield Step(name, self._read(world, i, p, row))
        elif p.at == "read":
            yield Step(name, self._read(world, i, p, row))
        elif p.at == "settle":
            yield Step(name, self._settle(world, i, p, row, run))

    def _read(self, world: World, i: int, p: Pursuit, row: Row) -> World:
        moved = not rules.waits(self._seen(world.task), row.view)
        return _pursuit(world, i, p._replace(at="settle", moved=moved, seen=world.task.version))

    def _inspect(self, world: World, i: int, p: Pursuit, row: Row, run: Run | None) -> World:
        live = row.live
        if live is None or row.owner != i:
            return _drop(world, i, p)
        if run is None or run.status == "created":
            at = "claim" if live.state is AttemptState.ENQUEUED else "read"
            return _pursuit(world, i, p._replace(at=at, outcome=Outcome.LOST if at == "read" else p.outcome))
        if run.status == "sealed":
            return _pursuit(world, i, p._replace(at="read", outcome=Outcome.START_FAILED))
        if not self.adopts:
            return _pursuit(world, i, p._replace(at="claim"))
        return _pursuit(world, i, p._replace(at="record" if live.state is AttemptState.ENQUEUED else "watch"))

    def _claim(self, world: World, i: int, p: Pursuit, row: Row) -> World:
        if not row.claims:
            return _pursuit(world, i, p._replace(at="bind"))
        to = "APPROVAL" if row.rule is Rule.REVIEW else "DOING"
        repeated = row.key in world.done
        world, granted = self._govern(world, DISPATCHER, Move(to, "dispatched", "", row.version), row.key)
        if granted and row.attempt.number == 1 and not repeated:  # it binds as well, in the same unit
            return self._bind(world, i, p, row)
        if granted:
            return _pursuit(world, i, p._replace(at="bind"))
        return _pursuit(world, i, p._replace(at="seal", refusal=Code.CLAIM_REFUSED, outcome=Outcome.CANCELLED))

    def _bind(self, world: World, i: int, p: Pursuit, row: Row) -> World:
        bound = {group: (attempt, fence) for group, attempt, fence in json.loads(world.task.attempts)}
        fence = row.attempt.fence
        if row.group in bound and bound[row.group][1] > fence:
            return _pursuit(world, i, p._replace(at="seal", outcome=Outcome.START_FAILED))
        bound[row.group] = (row.attempt_id, fence)
        attempts = json.dumps([[group, *who] for group, who in sorted(bound.items())])
        world = world._replace(task=world.task._replace(attempts=attempts))
        if self.checks_the_binding and not rules.waits(self._seen(world.task), row.view):
            return _pursuit(world, i, p._replace(at="seal", refusal=Code.WITHDRAWN, outcome=Outcome.CANCELLED))
        return _pursuit(world, i, p._replace(at="create"))

    def _record(self, world: World, i: int, p: Pursuit, row: Row) -> World:
        if row.owner != i or row.live is None:
            return _drop(world, i, p)
        attempt = row.attempt._replace(state=AttemptState.STARTED)
        world = _put(world, row._replace(attempt=attempt, state=DispatchState.STARTED))
        return _pursuit(world, i, p._replace(at="watch"))

    def _watch(self, world: World, i: int, p: Pursuit, row: Row, run: Run | None, name: str) -> Iterator[Step]:
        assert run is not None
        if run.status != "running":
            outcome = Outcome.LOST if run.status == "lost" else Outcome.EXITED
            yield Step(name, self._read(world, i, p._replace(outcome=outcome), row))
        elif p.wish is not Code.NONE:
            stopped = _put_run(world, run._replace(status="exited", code=143))
            yield Step(f"d{i} stops", self._read(stopped, i, p._replace(outcome=Outcome.CANCELLED), row))

    def _settle(self, world: World, i: int, p: Pursuit, row: Row, run: Run | None) -> World:
        world = _drop(world, i, p)
        if row.owner != i or row.live is None:
            return world
        code = p.refusal if p.refusal is not Code.NONE else p.wish
        if code is Code.WITHDRAWN and p.outcome is not Outcome.CANCELLED:
            code = Code.NONE
        end = End(p.outcome, run.code if run else None)
        told = settle(end, moved=p.moved, failures=row.failures, code=code, reason=str(code), retry=RETRY, now=NOW)
        attempt = row.attempt._replace(state=told.attempt)
        pursued = any(each.key == row.key for one in world.ones for each in one.pursuits)
        if told.dispatch is not DispatchState.ENQUEUED and not world.left.late and not pursued:
            world = world._replace(runs=tuple(each for each in world.runs if each != run))  # nobody asks for it again
        return _put(
            world,
            row._replace(
                attempt=attempt, state=told.dispatch, code=told.code, failures=told.failures, reason=told.reason,
                owner=i if told.dispatch is DispatchState.ENQUEUED else -2, seen=max(row.seen, p.seen),
            ),
        )  # fmt: skip

    # everybody else

    def _agent(self, world: World, run: Run) -> Iterator[Step]:
        running = run.status == "running"
        late = run.status in ("exited", "lost") and run.starts and world.left.late
        if running or late:
            if not running:
                world = world._replace(left=world.left._replace(late=world.left.late - 1))
            who = Caller(f"group:{run.group}", via="service:gateway", attempt=run.attempt_id)
            yield from self._act(world, who, f"{run.group} {run.attempt_id[-6:]}", running)
        if running:
            dispatch = run.attempt_id.rpartition("-")[0]  # of whichever attempt
            row = next(row for row in world.rows if row.attempt_id.rpartition("-")[0] == dispatch)
            if not rules.waits(self._seen(world.task), row.view):
                yield Step(f"{run.group} exits", _put_run(world, run._replace(status="exited")))
            if world.left.deaths:
                left = world.left._replace(deaths=world.left.deaths - 1)
                for status in ("exited", "lost"):  # without progress, or without a record
                    dead = _put_run(world._replace(left=left), run._replace(status=status))
                    yield Step(f"{run.group} dies, {status}", dead, False)

    def _act(self, world: World, who: Caller, name: str, helps: bool) -> Iterator[Step]:
        moves = {"DOING": ("REVIEW",), "APPROVAL": ("DONE", "REVIEW")}.get(world.task.state, ())
        for to in moves:
            moved, granted = self._govern(world, who, Move(to, f"by {who.name}"))
            if granted:
                _refuse_stale(world.task, who)
                yield Step(f"{name} moves to {to}", moved, helps)
        approved = self._approve(world, who)
        if approved is not None:
            _refuse_stale(world.task, who)
            yield Step(f"{name} approves", approved, helps)

    def _operator(self, world: World) -> Iterator[Step]:
        if not world.left.operator:
            return
        world = world._replace(left=world.left._replace(operator=world.left.operator - 1))
        for to in ("BLOCKED", "READY", "DOING", "APPROVAL"):
            if (world.task.state, to) == ("READY", "DOING"):
                continue  # then it is the operator who works on it
            moved, granted = self._govern(world, OPERATOR, Move(to, "because"))
            if granted:
                yield Step(f"operator moves to {to}", moved, False)
        if world.task.state in ("READY", "DOING", "APPROVAL") and world.task.assigned_group != "writer":
            change = edit.assign(world.task, edit.Assignment("writer"), OPERATOR, POLICY, NOW)
            yield Step("operator assigns writer", _apply(world, change.changes or {}, change.voids), False)

    def _govern(self, world: World, who: Caller, move: Move, request_id: str = "") -> tuple[World, bool]:
        """TransitionTask: granted once for its request_id."""
        if request_id and request_id in world.done:
            return world, True
        decision = transition.decide(world.task, move, who, POLICY, NOW)
        if decision.refusal is not None or decision.changes is None:
            return world, decision.refusal is None
        if move.expected_version not in (None, world.task.version):
            raise Wrong("a stale decision moved the task")
        world = _apply(world, decision.changes, decision.voids)
        return world._replace(done=world.done | {request_id}) if request_id else world, True

    def _approve(self, world: World, who: Caller) -> World | None:
        verdict = approval.decide(world.task, world.task.gate, who, None)
        if verdict.refusal is not None or not verdict.changed:
            return None
        task = world.task._replace(approved_by=who.principal)
        return world._replace(task=task, approved=(who.principal, task.round))


def seen(task: Task) -> Seen:
    """The task as the dispatcher's client makes it of governance's answer."""
    return Seen(
        task.id, task.version, TaskState(task.state), TaskState(task.previous_state) if task.previous_state else None,
        task.round, task.rework_count, task.assigned_group, "" if task.gate == "NONE" else task.gate,
        bool(task.human_gate), approval.approver_group(task), 2, True, task.state_reason,
    )  # fmt: skip


def _apply(world: World, changes: dict[str, Any], voids: str) -> World:
    task = world.task._replace(**changes)
    if voids:
        return world._replace(task=task._replace(approved_by=""), approved=None)
    return world._replace(task=task)


def _refuse_stale(task: Task, who: Caller) -> None:
    for group, attempt, _ in json.loads(task.attempts):
        if group == who.group and attempt != who.attempt:
            raise Wrong("a fenced attempt changed something")


def _fence(world: World) -> tuple[World, int]:
    return world._replace(fence=world.fence + 1), world.fence + 1


def _row(world: World, key: str) -> Row:
    return next(row for row in world.rows if row.key == key)


def _run(world: World, attempt_id: str) -> Run | None:
    return next((run for run in world.runs if run.attempt_id == attempt_id), None)


def _put(world: World, new: Row) -> World:
    return world._replace(rows=tuple(new if row.key == new.key else row for row in world.rows))


def _put_run(world: World, new: Run) -> World:
    others = [run for run in world.runs if run.attempt_id != new.attempt_id]
    return world._replace(runs=tuple(sorted([*others, new])))


def _set(world: World, i: int, one: One) -> World:
    return world._replace(ones=(one, world.ones[1]) if i == 0 else (world.ones[0], one))


def _pursuit(world: World, i: int, new: Pursuit) -> World:
    one = world.ones[i]
    others = [p for p in one.pursuits if p.key != new.key]
    return _set(world, i, one._replace(pursuits=tuple(sorted([*others, new], key=lambda p: p.key))))


def _drop(world: World, i: int, old: Pursuit) -> World:
    one = world.ones[i]
    return _set(world, i, one._replace(pursuits=tuple(p for p in one.pursuits if p.key != old.key)))
