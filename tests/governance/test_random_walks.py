"""Random operations by everybody on a few tasks: the log, read by its own rules, never shows a power misused."""

import asyncio
import json
import shutil
from typing import Any

import memory
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance import (
    approval,
    approvals,
    asks,
    attempts,
    edit,
    edits,
    requirement,
    tasks,
    transition,
    transitions,
    wire,
)
from nanoclaw_governance.act import Act
from nanoclaw_governance.draft import Draft
from nanoclaw_governance.override import Pass
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.tables import LOG, REQUESTS, SLICE
from nanoclaw_governance.task import TRANSITIONS, State
from nanoclaw_store import Database, Idempotency, verify
from nanoclaw_telemetry import TraceContext

CALLERS = [
    Caller("operator:founder", Role.ADMIN),
    Caller("operator:second", Role.ADMIN),
    Caller("operator:ana", Role.APPROVER),
    Caller("operator:vic", Role.VIEWER),
    Caller("service:dispatcher"),
    *(Caller(f"group:{name}", via="service:gateway") for name in ("main", "security", "developer", "designer")),
    Caller("group:security", via="service:gateway", attempt="nc-1"),
]
GATES = ["NONE", "SECURITY", "PRODUCT", "CLAIMS"]
TASKS = ["t0", "t1", "t2"]
EXPECTED = {Kind.DENIED, Kind.PRECONDITION, Kind.CONFLICT, Kind.NOT_FOUND, Kind.EXHAUSTED, Kind.INVALID}

callers = st.sampled_from(CALLERS)
which = st.sampled_from(TASKS)
groups = st.sampled_from(["developer", "security", "main", "designer"])
gates = st.sampled_from(GATES)


class Walk(RuleBasedStateMachine):
    """The kernel over a real database; what it refuses is fine, what it lets pass is judged by the log."""

    trust_main = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = memory.folder()  # what is durable is not the question here
        self.path = self.folder / "walk.db"
        self.database = self.runner.run(self._open())
        self.idempotency = Idempotency(self.database, REQUESTS)
        self.policy = Policy(trust_main=self.trust_main)
        self.requests: list[tuple[Caller, Any, bytes]] = []
        self.number = 0
        self.seen: dict[str, int] = {}

    async def _open(self) -> Database:
        return await Database.open(self.path, SLICE)

    def do(self, caller: Caller, operate: Any) -> bool:
        """One unit; False if it was refused."""
        self.number += 1
        act = Act(caller, self.policy, f"r{self.number}", "")
        try:
            self.runner.run(self.database.write(lambda tx: operate(tx, act)))
        except NanoclawError as error:
            if error.kind not in EXPECTED:
                raise
            return False
        return True

    @initialize(gates=st.lists(gates, min_size=3, max_size=3), groups=st.lists(groups, min_size=3, max_size=3))
    def begin(self, gates: list[str], groups: list[str]) -> None:
        """Three tasks, on their way."""
        for task_id, gate, group in zip(TASKS, gates, groups, strict=True):
            draft = Draft("t", "BUG", id=task_id, gate=gate, assigned_group="" if group == "main" else group)
            trace = TraceContext.new().traceparent
            assert self.do(CALLERS[0], lambda tx, act, d=draft, t=trace: tasks.create(tx, act, d, t))
            for state in ("TRIAGED", "READY"):
                self.send(CALLERS[0], task_id, state)

    def send(self, caller: Caller, task_id: str, to: str) -> None:
        """A TransitionTask, recorded under its request_id."""
        self.number += 1
        request = pb.TransitionTaskRequest(
            request_id=f"q{self.number}", task_id=task_id, to_state=f"TASK_STATE_{to}", reason="because"
        )
        try:
            answer = self.answer(caller, request)
        except NanoclawError as error:
            if error.kind not in EXPECTED:
                raise
        else:
            self.requests.append((caller, request, answer))

    def answer(self, caller: Caller, request: pb.TransitionTaskRequest) -> bytes:
        act = Act(caller, self.policy, request.request_id, "")

        def unit(tx: Any) -> pb.TransitionTaskResponse:
            task, changed = transitions.move(tx, act, request.task_id, asks.move_of(request))
            return pb.TransitionTaskResponse(task=wire.task_message(task), changed=changed)

        response = self.runner.run(self.idempotency.run(caller.principal, request, unit))
        return response.SerializeToString(deterministic=True)

    @rule(caller=callers, task_id=which, pick=st.integers(0, 3))
    def move(self, caller: Caller, task_id: str, pick: int) -> None:
        """Somebody takes one of the edges that there are."""
        targets = sorted(TRANSITIONS[State(self.task(task_id).state)]) or ["DOING"]
        self.send(caller, task_id, targets[pick % len(targets)])

    @rule(task_id=which, far=st.integers(1, 3))
    def go_on(self, task_id: str, far: int) -> None:
        """The usual next steps, by whose they usually are: so that walks get far enough to be interesting."""
        for _ in range(far):
            task = self.task(task_id)
            way = {"READY": "DOING", "DOING": "REVIEW", "REVIEW": "APPROVAL", "BLOCKED": "DOING"}
            worker = Caller(f"group:{task.assigned_group}", via="service:gateway")
            if task.state not in way:
                return
            self.send(worker if task.state == "DOING" else CALLERS[0], task_id, way[task.state])

    @rule(task_id=which, approver=callers, finisher=callers)
    def finish(self, task_id: str, approver: Caller, finisher: Caller) -> None:
        """Somebody approves, somebody finishes, whoever they are."""
        self.go_on(task_id, 3)
        self.approve(approver, task_id)
        self.send(finisher, task_id, "DONE")

    @rule(task_id=which, caller=callers)
    def finish_alone(self, task_id: str, caller: Caller) -> None:
        """Somebody tries all of it alone, with the work in hand already or not."""
        for to in ("DOING", "REVIEW"):
            self.send(caller, task_id, to)
        self.finish(task_id, caller, caller)

    @rule(caller=callers, task_id=which)
    def approve(self, caller: Caller, task_id: str) -> None:
        """Somebody approves the gate that the task has."""
        gate = self.task(task_id).gate
        self.do(caller, lambda tx, act: approvals.approve(tx, act, task_id, gate, "", None))

    @rule(caller=callers, task_id=which, group=groups)
    def assign(self, caller: Caller, task_id: str, group: str) -> None:
        """Somebody reassigns."""
        self.do(caller, lambda tx, act: edits.assign(tx, act, task_id, None, edit.Assignment(group)))

    @rule(task_id=which, group=groups, hand_in=st.booleans())
    def pass_on(self, task_id: str, group: str, hand_in: bool) -> None:
        """Work under way is given to another group."""
        if self.task(task_id).state == "READY":
            self.go_on(task_id, 1)
        self.assign(CALLERS[0], task_id, group)
        if hand_in:
            self.go_on(task_id, 2)

    @rule(caller=callers, task_id=which, gate=gates)
    def relabel(self, caller: Caller, task_id: str, gate: str) -> None:
        """Somebody changes the gate."""
        self.do(caller, lambda tx, act: edits.update(tx, act, task_id, None, edit.Details(gate=gate)))

    @rule(caller=callers, task_id=which)
    def add_evidence(self, caller: Caller, task_id: str) -> None:
        """Somebody shows something new."""
        self.do(caller, lambda tx, act: edits.add_evidence(tx, act, task_id, None, "https://ci", ""))

    @rule(caller=callers, task_id=which)
    def override(self, caller: Caller, task_id: str) -> None:
        """Somebody is in a hurry."""
        trace = TraceContext.new().traceparent
        self.do(caller, lambda tx, act: edits.override(tx, act, task_id, None, Pass("hurry"), trace))

    @rule(task_id=which, group=groups, fence=st.integers(1, 3))
    def bind(self, task_id: str, group: str, fence: int) -> None:
        """The dispatcher starts an attempt."""
        self.do(
            CALLERS[4], lambda tx, act: attempts.bind(tx, act, task_id, attempts.Binding(group, f"nc-{fence}", fence))
        )

    @rule(pick=st.integers(0, 1000), other=st.booleans())
    def repeat(self, pick: int, other: bool) -> None:
        """I11: the same request_id gets the same answer; with another body it is refused; neither does anything."""
        if not self.requests:
            return
        caller, request, recorded = self.requests[pick % len(self.requests)]
        rows = len(self.log())
        if other:
            changed = pb.TransitionTaskRequest()
            changed.CopyFrom(request)
            changed.reason = "something else"
            with pytest.raises(NanoclawError, match="REQUEST_ID_REUSED"):
                self.answer(caller, changed)
        else:
            assert self.answer(caller, request) == recorded
        assert len(self.log()) == rows

    def task(self, task_id: str) -> Any:
        found = self.database.read(lambda tx: tasks.get(tx, task_id))
        assert found is not None
        return found

    def log(self) -> list[Any]:
        return self.database.read(lambda tx: LOG.after(tx, 0, 10_000))

    @invariant()
    def executors_are_those_of_the_log(self) -> None:
        """The column says what the log says, by a second reading of it; I2 holds for every task that is done."""
        for task_id in TASKS:
            rows = [row for row in self.log() if row["task_id"] == task_id]
            if len(rows) == self.seen.get(task_id):
                continue
            self.seen[task_id] = len(rows)
            history = History(rows)
            assert set(self.task(task_id).has_executed) == history.executors
            assert not history.misused, history.misused

    def teardown(self) -> None:
        """I3 and I4: the chain is whole and its fold is the state."""
        self.runner.run(self.database.close())
        self.runner.close()
        report = verify(self.path)
        shutil.rmtree(self.folder)
        assert report.ok, report.findings


class History:
    """A task's rows, read by the rules of the design and nothing of the code."""

    def __init__(self, rows: list[Any]) -> None:
        self.executors: set[str] = set()
        self.misused: list[str] = []
        state = group = gate = ""
        live: dict[str, tuple[str, str]] = {}  # approval → (gate, by)
        overridden: set[str] = set()
        for row in rows:
            changed = {table: values for table, _, values in json.loads(row["change"])["set"]}
            task = changed.get("gov_tasks", {})
            action, principal = row["action"], row["principal"]
            group = task.get("assigned_group", group)
            if action == "update" and task.get("gate", gate) != gate:
                live.clear()
            gate = task.get("gate", gate)
            if action in ("evidence", "checklist") or (action == "assign" and "assigned_group" in task):
                live.clear()
            if action == "assign" and state == "DOING":
                self.executors.add(f"group:{group}")
            if action == "approve":
                if principal in self.executors or principal == f"group:{group}":
                    self.misused.append(f"{principal} approved its own work")
                live[row["subject"]] = (changed["gov_approvals"]["gate"], principal)
            if action == "override":
                if principal in self.executors or not principal.startswith("operator:"):
                    self.misused.append(f"{principal} overrode")
                overridden.add(json.loads(task["override"])["gate"])
            if action == "transition":
                state = row["to_state"]
                if state == "DOING":
                    live.clear()
                    self.executors.add(f"group:{group}")
                if (row["from_state"], state) == ("DOING", "REVIEW"):
                    self.executors.add(principal)
                if state == "DONE":
                    self.finish(principal, gate, live, overridden)

    def finish(self, by: str, gate: str, live: dict[str, tuple[str, str]], overridden: set[str]) -> None:
        """What must hold when a task is done."""
        if by in self.executors:
            self.misused.append(f"{by} finished its own work")
        approvers = [who for of, who in live.values() if of == gate]
        if gate != "NONE" and gate not in overridden and not approvers:
            self.misused.append(f"done through {gate} without an approval of what was there")
        if set(approvers) & self.executors:
            self.misused.append(f"approved by an executor: {approvers}")


SETTINGS = settings(
    max_examples=12,
    stateful_step_count=30,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def test_no_walk_misuses_a_power() -> None:
    """I2, I3, I4, I11 over random walks of everybody over three tasks."""
    run_state_machine_as_test(Walk, settings=SETTINGS)


def _nobody_worked(*_: Any) -> bool:
    return False


def _void_nothing(_tx: Any, _act: Any, task: Any, _why: str) -> Any:
    return task


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "who worked is not asked": (approval, "worked_on", _nobody_worked),
    "executors are forgotten": (transition, "with_executors", lambda *_: "[]"),
    "reassigning makes no executor": (edit, "with_executors", lambda task, _: task.executors),
    "approvals are not voided": (approvals, "void", _void_nothing),
    "a gate is always open": (requirement, "_is_approved", lambda _: True),
}


@pytest.mark.crash  # seconds each, for they shrink what they find
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_walk_finds_a_guard_that_is_gone(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same walk over a kernel without one of its guards fails: so it would have noticed."""
    module, name, replacement = MUTANTS[mutant]
    monkeypatch.setattr(module, name, replacement)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Walk, settings=settings(SETTINGS, max_examples=500, report_multiple_bugs=False))
