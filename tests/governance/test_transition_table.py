"""The lifecycle is a table: every pair of states, every relation on every edge, every requirement of every target."""

import itertools
from typing import Any

import pytest

from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance.draft import new_task
from nanoclaw_governance.policy import PERMITTED, REQUIREMENTS, STRICT_REQUIREMENTS, Policy
from nanoclaw_governance.requirement import unmet
from nanoclaw_governance.task import TRANSITIONS, State, Task
from nanoclaw_governance.transition import Move, decide, route

NOW = "2026-11-21T12:00:00.000000Z"

DIAGRAM = """
INBOX    → TRIAGED BLOCKED
TRIAGED  → READY BLOCKED
READY    → DOING BLOCKED
DOING    → REVIEW BLOCKED
REVIEW   → APPROVAL DOING BLOCKED
APPROVAL → DONE REVIEW BLOCKED
BLOCKED  → INBOX TRIAGED READY DOING
DONE     →
"""
EDGES = {
    (source.strip(), to)
    for source, _, targets in (line.partition("→") for line in DIAGRAM.strip().splitlines())
    for to in targets.split()
}
PAIRS = list(itertools.product(State, State))

# Who may take an edge, besides an admin and main, as the design's table has it.
ALSO = {
    ("INBOX", "TRIAGED"): set(),
    ("TRIAGED", "READY"): set(),
    ("READY", "DOING"): {"developer", "dispatcher"},
    ("DOING", "REVIEW"): {"developer"},
    ("REVIEW", "APPROVAL"): {"dispatcher", "approver"},
    ("REVIEW", "DOING"): {"security", "approver", "dispatcher"},
    ("APPROVAL", "REVIEW"): {"security", "approver", "dispatcher"},
    ("APPROVAL", "DONE"): {"security", "approver"},
    ("BLOCKED", "INBOX"): set(),
    ("BLOCKED", "TRIAGED"): set(),
    ("BLOCKED", "READY"): set(),
    ("BLOCKED", "DOING"): set(),  # the assigned group's case has a test of its own
    **{(str(state), "BLOCKED"): {"developer", "security", "approver", "dispatcher"} for state in State},
}

CALLERS = {
    "admin": Caller("operator:founder", Role.ADMIN),
    "approver": Caller("operator:ana", Role.APPROVER),
    "viewer": Caller("operator:vic", Role.VIEWER),
    "main": Caller("group:main"),
    "developer": Caller("group:developer"),
    "security": Caller("group:security"),
    "stranger": Caller("group:stranger"),
    "dispatcher": Caller("service:dispatcher"),
    "broker": Caller("service:broker"),
    "gateway": Caller("service:gateway"),
    "nobody": Caller("group:"),
    "impostor": Caller("someone:main"),
}


def a_task(state: str, **fields: Any) -> Task:
    """A task of group developer with gate SECURITY, approved, that lacks nothing."""
    blocked = {"blocked_from": "READY", "blocked_by": "service:dispatcher"} if state == "BLOCKED" else {}
    usual = {"title": "t", "task_type": "BUG", "assigned_group": "developer", "gate": "SECURITY", "version": 7}
    return new_task("t1", **{**usual, "state": state, "approved_by": "operator:else", **blocked, **fields})


def outcome(task: Task, to: str, caller: Caller, policy: Policy = Policy(), **move: Any) -> str:  # noqa: B008
    """`moved`, `nothing`, or the code of the refusal."""
    decision = decide(task, Move(to, **{"reason": "because"} | move), caller, policy, NOW)
    if decision.refusal:
        assert decision.changes is None
        return decision.refusal.reason
    return "nothing" if decision.changes is None else "moved"


def test_the_table_is_the_diagram() -> None:
    """TRANSITIONS has exactly the edges of the design, and the policy says of each who may take it."""
    assert {(str(source), str(to)) for source, targets in TRANSITIONS.items() for to in targets} == EDGES
    assert {(str(source), str(to)) for source, to in PERMITTED} == EDGES
    assert TRANSITIONS.keys() == set(State)


@pytest.mark.parametrize(("source", "to"), PAIRS)
def test_every_pair_of_states_is_decided(source: str, to: str) -> None:
    """An admin takes every edge there is, is refused every other, and moves nothing that is there already."""
    expected = "nothing" if source == to else "moved" if (source, to) in EDGES else "NO_SUCH_EDGE"
    assert outcome(a_task(source), to, CALLERS["admin"]) == expected


@pytest.mark.parametrize(("source", "to"), sorted(EDGES))
def test_only_the_relations_of_the_table_take_an_edge(source: str, to: str) -> None:
    """A dozen callers on each edge: admin, main and whom the table names; nobody else, whatever it is called."""
    allowed = {"admin", "main"} | ALSO[source, to]
    got = {name: outcome(a_task(source), to, caller) for name, caller in CALLERS.items()}
    assert got == {name: "moved" if name in allowed else "NOT_PERMITTED" for name in CALLERS}


@pytest.mark.parametrize("blocked_from", [str(state) for state in State if state not in ("DONE", "BLOCKED")])
@pytest.mark.parametrize("blocked_by", ["group:developer", "service:dispatcher", "operator:founder"])
@pytest.mark.parametrize("to", ["INBOX", "TRIAGED", "READY", "DOING"])
def test_the_assigned_group_takes_back_only_what_it_blocked_itself(blocked_from: str, blocked_by: str, to: str) -> None:
    """Out of BLOCKED the assigned group goes to DOING alone, and only if it blocked from DOING itself."""
    task = a_task("BLOCKED", blocked_from=blocked_from, blocked_by=blocked_by)
    allowed = (blocked_from, blocked_by, to) == ("DOING", "group:developer", "DOING")
    assert outcome(task, to, CALLERS["developer"]) == ("moved" if allowed else "NOT_PERMITTED")


@pytest.mark.parametrize("state", [str(state) for state in State])
def test_a_stale_version_is_told_before_anything_else(state: str) -> None:
    """Even a caller without any right, to the state that is there: the version comes first, with the facts."""
    refusal = decide(a_task(state), Move(state, expected_version=6), CALLERS["stranger"], Policy(), NOW).refusal
    assert refusal is not None
    assert refusal.reason == "STALE_VERSION"
    assert refusal.facts == {"expected": "6", "actual": "7", "state": state}


def test_already_there_comes_before_permission_and_needs() -> None:
    """Repeating a move that has happened succeeds and changes nothing, whoever repeats it."""
    assert outcome(a_task("DONE"), "DONE", CALLERS["stranger"], expected_version=7) == "nothing"


def test_the_edge_comes_before_permission() -> None:
    """Where no edge leads nobody is asked for rights."""
    assert outcome(a_task("INBOX"), "DONE", CALLERS["stranger"]) == "NO_SUCH_EDGE"


@pytest.mark.parametrize(
    ("source", "to"), [("REVIEW", "DOING"), ("APPROVAL", "REVIEW"), *((s, "BLOCKED") for s in State if s in {"INBOX"})]
)
def test_sending_back_and_blocking_need_a_reason(source: str, to: str) -> None:
    """Whoever has to go on needs to know why."""
    assert outcome(a_task(source), to, CALLERS["admin"], reason="") == "MISSING_REASON"


@pytest.mark.parametrize("source", ["READY", "REVIEW", "BLOCKED"])
def test_what_doing_needs_belongs_to_doing_whatever_the_source(source: str) -> None:
    """An assigned group and an active product, from READY as from rework and unblocking."""
    admin = CALLERS["admin"]
    assert outcome(a_task(source, assigned_group=""), "DOING", admin) == "NO_ASSIGNED_GROUP"
    for status in ("PAUSED", "KILLED"):
        task = a_task(source, product_id="p", product_name="P", product_status=status)
        assert outcome(task, "DOING", admin) == f"PRODUCT_{status}"
    assert outcome(a_task(source, product_id="p", product_status="ACTIVE"), "DOING", admin) == "moved"


def test_all_violations_come_back_at_once() -> None:
    """Nobody has to try five times to learn five things."""
    task = a_task(
        "APPROVAL", approved_by="", task_type="FEATURE", evidence_required=1, checklist='[{"done":false,"text":"x"}]'
    )
    refusal = decide(task, Move("DONE"), CALLERS["admin"], Policy(strict=True), NOW).refusal
    assert refusal is not None
    assert [violation.code for violation in refusal.violations] == [
        "GATE_NOT_APPROVED",
        "DOD_INCOMPLETE",
        "DOCS_NOT_UPDATED",
        "MISSING_EVIDENCE_LINK",
    ]
    assert all(violation.next_step for violation in refusal.violations)


def test_a_requirement_that_can_be_violated_is_in_the_policy() -> None:
    """What GetPolicy lists for a target is what can come back: nothing is asked for in secret."""
    listed = {*itertools.chain(*REQUIREMENTS.values(), *STRICT_REQUIREMENTS.values()), "MISSING_REASON"}
    seen = set()
    for (source, to), fields in itertools.product(
        sorted(EDGES),
        [
            {},
            {"assigned_group": ""},
            {"product_id": "p", "product_status": "PAUSED"},
            {"product_id": "p", "product_status": "KILLED"},
            {"approved_by": "", "task_type": "DOC", "evidence_required": 1},
            {"override": '{"gate":"SECURITY"}', "checklist": '[{"done":false,"text":"x"}]', "task_type": "INCIDENT"},
            {"gate": "PRODUCT", "assigned_group": "developer"},
        ],
    ):
        task = a_task(source, **fields)
        for caller in (CALLERS["admin"], CALLERS["main"]):
            for violation in unmet(task, to, "", "", caller, Policy(strict=True)):
                assert violation.code == "MISSING_REASON" or violation.code in (
                    *REQUIREMENTS.get(to, ()),
                    *STRICT_REQUIREMENTS.get(to, ()),
                )
                seen.add(violation.code)
    assert seen == listed


def test_entering_doing_begins_a_round_and_rework_is_counted() -> None:
    """round counts every entry, rework_count only what came back from REVIEW."""
    admin = CALLERS["admin"]
    for source, reworked in (("READY", 0), ("REVIEW", 1), ("BLOCKED", 0)):
        changes = decide(a_task(source), Move("DOING", "because"), admin, Policy(), NOW).changes
        assert changes is not None
        assert changes["round"] == 1
        assert changes.get("rework_count", 0) == reworked
        assert changes["executors"] == '["group:developer"]'


def test_the_review_summary_is_that_of_this_round() -> None:
    """The reason stands for a summary that was not sent; an old one never does for a new one."""
    for move, summary in ((Move("REVIEW", "r", "s"), "s"), (Move("REVIEW", "r"), "r"), (Move("REVIEW"), "")):
        changes = decide(a_task("DOING", review_summary="old"), move, CALLERS["developer"], Policy(), NOW).changes
        assert changes is not None
        assert changes["review_summary"] == summary


def test_blocked_keeps_where_from_and_by_whom_until_it_ends() -> None:
    """Both are set while BLOCKED, and only then."""
    changes = decide(a_task("REVIEW"), Move("BLOCKED", "stuck"), CALLERS["security"], Policy(), NOW).changes
    assert changes is not None
    assert (changes["blocked_from"], changes["blocked_by"]) == ("REVIEW", "group:security")
    changes = decide(a_task("BLOCKED"), Move("READY"), CALLERS["admin"], Policy(), NOW).changes
    assert changes is not None
    assert (changes["blocked_from"], changes["blocked_by"]) == ("", "")


def test_a_refused_edge_names_the_way_round() -> None:
    """The next step is the shortest route, without going through BLOCKED."""
    assert route("INBOX", "DONE") == ("INBOX", "TRIAGED", "READY", "DOING", "REVIEW", "APPROVAL", "DONE")
    assert route("DONE", "INBOX") == ()
    refusal = decide(a_task("INBOX"), Move("DOING"), CALLERS["admin"], Policy(), NOW).refusal
    assert refusal is not None
    assert refusal.next_step == "go by INBOX → TRIAGED → READY → DOING: move it to TASK_STATE_TRIAGED next"
