"""`nanoclaw task`, `product`, `approve`: words in, one request out, an answer for people or for programs."""

from typing import Any

import pytest

from nanoclaw.dispatcher.v1 import dispatcher_pb2
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError, Violation

TASK = pb.Task(
    id="t1",
    title="Fix login",
    state=pb.TASK_STATE_APPROVAL,
    priority=pb.PRIORITY_P1,
    gate=pb.GATE_SECURITY,
    assigned_group="developer",
    version=7,
    traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
)


@pytest.mark.parametrize("word", ["Security", "security", "GATE_SECURITY"])
async def test_values_are_taken_as_people_and_as_contracts_write_them(nanoclaw: Any, far_side: Any, word: str) -> None:
    """What grpcurl printed can be pasted, too."""
    ran = await nanoclaw("task", "create", "T", "--gate", word)
    assert ran.code == 0
    (asked,) = far_side.requests("CreateTask")
    assert asked.gate == pb.GATE_SECURITY


async def test_hints_name_values_as_the_command_takes_them(nanoclaw: Any, far_side: Any) -> None:
    """A service says TASK_TYPE_BUG and GATE_REVOPS, which grpcurl takes; people type BUG and RevOps."""
    step = "choose one of TASK_TYPE_BUG, GATE_REVOPS"
    error = NanoclawError(Kind.INVALID, "INVALID_FIELD", "wrong", violations=[Violation("A", "a", step, "f")])
    far_side.answers["CreateTask"] = error
    ran = await nanoclaw("task", "create", "T")
    assert ran.err == "error INVALID_FIELD: wrong; next step: choose one of BUG, RevOps\n"
    ran = await nanoclaw("task", "create", "T", "--json")
    assert ran.json["error"]["violations"][0]["next_step"] == "choose one of BUG, RevOps"


@pytest.mark.parametrize("as_json", [False, True])
async def test_a_group_that_nobody_configured_is_said_beside_the_answer(
    nanoclaw: Any, far_side: Any, as_json: bool
) -> None:
    """Created, assigned, granted: the answer stays as it is, and stderr names the groups that there are."""
    far_side.answers["ListGroups"] = dispatcher_pb2.ListGroupsResponse(
        groups=[dispatcher_pb2.Group(name="main"), dispatcher_pb2.Group(name="developer")]
    )
    json = ("--json",) if as_json else ()
    for arguments in (
        ("task", "create", "T", "-g", "develper"),
        ("task", "assign", "t1", "develper"),
        ("grant", "develper", "json", "L1"),
    ):
        ran = await nanoclaw(*arguments, *json)
        assert ran.code == 0
        assert ran.err.startswith("warning UNKNOWN_GROUP: no group 'develper' is configured, so ")
        assert ran.err.endswith("; here are developer, main\n")
        assert not as_json or ran.json
    for arguments in (
        ("task", "create", "T", "-g", "developer"),
        ("task", "create", "T"),
        ("task", "assign", "t", "main"),
    ):
        assert (await nanoclaw(*arguments)).err == ""


async def test_nothing_that_an_agent_wrote_acts_on_the_terminal(nanoclaw: Any, far_side: Any) -> None:
    """Escape sequences, bells and characters that turn the text around are shown, not carried out."""
    title = "a\x1b[31mred\x1b]0;title\x07 \u202eabc\u202c \x9b1m"
    far_side.answers["ListTasks"] = pb.ListTasksResponse(tasks=[pb.Task(id="t1", title=title)])
    far_side.answers["GetTask"] = pb.GetTaskResponse(task=pb.Task(id="t1", title=title, state_reason=title))
    for arguments in (("task", "list"), ("task", "get", "t1")):
        ran = await nanoclaw(*arguments)
        assert "␛[31mred" in ran.out
        assert not {"\x1b", "\x07", "\u202e", "\u202c", "\x9b"} & set(ran.out)
    far_side.answers["GetTask"] = NanoclawError(Kind.NOT_FOUND, "X", f"no {title}", next_step="none")
    assert "␛[31mred" in (await nanoclaw("task", "get", "t1")).err


async def test_create_takes_words_and_a_product_by_name(nanoclaw: Any, far_side: Any) -> None:
    """The words of the files and the CLI, the enums of the contract."""
    far_side.answers["GetProduct"] = pb.GetProductResponse(product=pb.Product(id="p1"))
    far_side.answers["CreateTask"] = pb.CreateTaskResponse(task=TASK)
    ran = await nanoclaw(
        *("task", "create", "Fix login", "--type", "bug", "--priority", "P1", "--gate", "security"),
        *("--product", "Atlas", "-g", "developer", "--metadata", '{"a": 1}', "--request-id", "r1", "-d", "please"),
    )
    assert (ran.code, ran.err) == (0, "")
    assert "created t1" in ran.out
    assert far_side.requests("CreateTask") == [
        pb.CreateTaskRequest(
            request_id="r1",
            title="Fix login",
            description="please",
            task_type=pb.TASK_TYPE_BUG,
            priority=pb.PRIORITY_P1,
            product_id="p1",
            assigned_group="developer",
            gate=pb.GATE_SECURITY,
            risk=pb.RISK_NORMAL,
            metadata_json='{"a": 1}',
        )
    ]


async def test_create_ready_moves_it_on_under_ids_that_repeat(nanoclaw: Any, far_side: Any) -> None:
    """The whole command under one request id happens once."""
    far_side.answers["CreateTask"] = pb.CreateTaskResponse(task=TASK)
    far_side.answers["TransitionTask"] = pb.TransitionTaskResponse(task=TASK)
    await nanoclaw("task", "create", "Fix login", "--ready", "--request-id", "r1")
    assert [(one.request_id, one.to_state) for one in far_side.requests("TransitionTask")] == [
        ("r1-TRIAGED", pb.TASK_STATE_TRIAGED),
        ("r1-READY", pb.TASK_STATE_READY),
    ]


async def test_every_mutation_brings_a_request_id_of_its_own(nanoclaw: Any, far_side: Any) -> None:
    """So that the client may repeat it when a service was away."""
    far_side.answers["TransitionTask"] = pb.TransitionTaskResponse(task=TASK)
    await nanoclaw("task", "move", "t1", "ready")
    await nanoclaw("task", "move", "t1", "ready")
    first, second = far_side.requests("TransitionTask")
    assert first.request_id.startswith("cli-")
    assert first.request_id != second.request_id


async def test_list_reads_every_page_and_filters(nanoclaw: Any, far_side: Any) -> None:
    """Pages are our business, not the reader's."""
    far_side.answers["ListTasks"] = [
        pb.ListTasksResponse(tasks=[pb.Task(id="t1", state=pb.TASK_STATE_DOING)], next_page_token="more"),
        pb.ListTasksResponse(tasks=[pb.Task(id="t2", state=pb.TASK_STATE_DONE)]),
    ]
    ran = await nanoclaw("task", "list", "--state", "doing", "--state", "done", "-g", "developer", "--json")
    assert [task["id"] for task in ran.json] == ["t1", "t2"]
    assert ran.json[0]["state"] == "TASK_STATE_DOING"
    first, second = far_side.requests("ListTasks")
    assert list(first.states) == [pb.TASK_STATE_DOING, pb.TASK_STATE_DONE]
    assert (first.assigned_group, second.page_token) == ("developer", "more")


async def test_a_list_that_goes_on_says_so(nanoclaw: Any, far_side: Any) -> None:
    """Beside the answer, for people and programs alike; nobody takes the beginning for the whole."""
    page = pb.ListTasksResponse(tasks=[pb.Task(id="t1"), pb.Task(id="t2")], next_page_token="more")
    far_side.answers = {"ListTasks": [page, page]}
    assert (
        "warning there are more than these 2; --limit 0 shows all"
        in (await nanoclaw("task", "list", "--limit", "2")).err
    )
    ran = await nanoclaw("task", "list", "--limit", "2", "--json")
    assert [one["id"] for one in ran.json] == ["t1", "t2"]
    assert "there are more" in ran.err


@pytest.mark.parametrize("columns", ["", "wide", "60"])
async def test_the_width_of_the_environment_holds_where_it_is_one(
    nanoclaw: Any, far_side: Any, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Cron, pipes and editors set COLUMNS to all kinds of things."""
    monkeypatch.setenv("COLUMNS", columns)
    far_side.answers = {"ListTasks": pb.ListTasksResponse(tasks=[pb.Task(id="t1", title="words " * 30)])}
    ran = await nanoclaw("task", "list")
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= (60 if columns == "60" else 200)


async def test_a_table_is_for_people(nanoclaw: Any, far_side: Any) -> None:
    """Words, not enum names; nothing cut off in a pipe."""
    far_side.answers["ListTasks"] = pb.ListTasksResponse(tasks=[TASK])
    ran = await nanoclaw("task", "list")
    assert "APPROVAL" in ran.out
    assert "Security" in ran.out
    assert "TASK_STATE" not in ran.out
    far_side.answers["ListTasks"] = pb.ListTasksResponse()
    assert (await nanoclaw("task", "list")).out == "no tasks\n"


async def test_get_names_the_trace(nanoclaw: Any, far_side: Any) -> None:
    """The README says so."""
    far_side.answers["GetTask"] = pb.GetTaskResponse(task=TASK)
    assert "ab" * 16 in (await nanoclaw("task", "get", "t1")).out
    assert (await nanoclaw("task", "get", "t1", "--json")).json["version"] == "7"


@pytest.mark.parametrize("words", [("approve",), ("task", "approve")])
async def test_approve_covers_the_version_that_was_read(nanoclaw: Any, far_side: Any, words: tuple[str, ...]) -> None:
    """What changes between reading and approving is refused, not approved unseen."""
    far_side.answers["GetTask"] = pb.GetTaskResponse(task=TASK)
    far_side.answers["ApproveGate"] = pb.ApproveGateResponse(task=TASK, changed=True)
    ran = await nanoclaw(*words, "t1", "-n", "fine")
    assert ran.out == "Security gate of t1 approved; it is in APPROVAL\n"
    (request,) = far_side.requests("ApproveGate")
    assert (request.gate, request.expected_version, request.notes) == (pb.GATE_SECURITY, 7, "fine")


async def test_checklist_keeps_the_items_that_it_does_not_name(nanoclaw: Any, far_side: Any) -> None:
    """The RPC replaces the whole list; a person ticks one item."""
    task = pb.Task(version=3, checklist=[pb.ChecklistItem(text="tests"), pb.ChecklistItem(text="docs", done=True)])
    far_side.answers["GetTask"] = pb.GetTaskResponse(task=task)
    far_side.answers["SetChecklist"] = pb.SetChecklistResponse(task=task)
    await nanoclaw("task", "checklist", "t1", "--done", "tests", "--open", "demo", "--evidence-required")
    (request,) = far_side.requests("SetChecklist")
    assert [(item.text, item.done) for item in request.checklist] == [("tests", True), ("docs", True), ("demo", False)]
    assert (request.evidence_required, request.HasField("docs_updated"), request.expected_version) == (True, False, 3)


async def test_explain_says_what_it_would_take(nanoclaw: Any, far_side: Any) -> None:
    """Violations, next steps, who may."""
    far_side.answers["ExplainTransition"] = pb.ExplainTransitionResponse(
        violations=[pb.Violation(code="GATE_NOT_APPROVED", message="no live approval")],
        next_steps=["approve the Security gate"],
        permitted_principals=["group:security"],
    )
    ran = await nanoclaw("task", "explain", "t1", "done", "--as-principal", "group:developer")
    for words in ("it would be refused", "GATE_NOT_APPROVED", "approve the Security gate", "group:security"):
        assert words in ran.out
    assert far_side.requests("ExplainTransition")[0].as_principal == "group:developer"


async def test_history_and_watch_show_facts_in_words(nanoclaw: Any, far_side: Any) -> None:
    """And watch ends when the task is where it was waited for."""
    fact = pb.Activity(
        task_id="t1",
        action="transition",
        from_state=pb.TASK_STATE_APPROVAL,
        to_state=pb.TASK_STATE_DONE,
        principal="group:security",
        reason="fine\nand more",
    )
    far_side.answers["ListActivities"] = pb.ListActivitiesResponse(activities=[fact])
    far_side.answers["GetTask"] = pb.GetTaskResponse(task=TASK)
    far_side.answers["WatchTasks"] = [
        pb.WatchTasksResponse(cursor=pb.Cursor(epoch=1, seq=8)),
        pb.WatchTasksResponse(cursor=pb.Cursor(epoch=1, seq=9), activity=fact),
    ]
    assert "APPROVAL → DONE" in (await nanoclaw("task", "history", "t1")).out
    ran = await nanoclaw("task", "watch", "t1", "--until", "DONE")
    assert ran.code == 0
    assert "APPROVAL → DONE" in ran.out
    assert "and more" not in ran.out
    ran = await nanoclaw("task", "watch", "t1", "--until", "DONE", "--json")
    assert ran.json["to_state"] == "TASK_STATE_DONE"


async def test_watch_goes_on_from_its_cursor_when_governance_was_away(nanoclaw: Any, far_side: Any) -> None:
    """A restart costs no fact."""
    done = pb.Activity(task_id="t1", action="transition", to_state=pb.TASK_STATE_DONE)
    streams = [
        [pb.WatchTasksResponse(cursor=pb.Cursor(epoch=1, seq=8), activity=pb.Activity(task_id="t1", action="assign"))],
        NanoclawError(Kind.UNAVAILABLE, "SHUTTING_DOWN", "back soon"),
        [pb.WatchTasksResponse(cursor=pb.Cursor(epoch=1, seq=9), activity=done)],
    ]
    far_side.answers["GetTask"] = pb.GetTaskResponse(task=TASK)
    far_side.answers["WatchTasks"] = lambda request: streams.pop(0)
    ran = await nanoclaw("task", "watch", "t1", "--until", "DONE")
    assert ran.code == 0
    assert [one.cursor.seq for one in far_side.requests("WatchTasks")] == [0, 8, 8]


async def test_override_takes_its_deadline_in_days(nanoclaw: Any, far_side: Any) -> None:
    """A person thinks in days."""
    far_side.answers["OverrideTask"] = pb.OverrideTaskResponse(task=TASK, follow_up=pb.Task(id="t9"))
    ran = await nanoclaw(
        *("task", "override", "t1", "-r", "the launch", "--accepted-risk", "no review", "--review-by", "7d")
    )
    assert "follow-up t9" in ran.out
    (request,) = far_side.requests("OverrideTask")
    assert request.review_deadline.seconds > 0


async def test_products_by_name_and_by_verb(nanoclaw: Any, far_side: Any) -> None:
    """kill, pause and activate are updates of the status."""
    far_side.answers["GetProduct"] = pb.GetProductResponse(product=pb.Product(id="p1", name="Atlas"))
    far_side.answers["UpdateProduct"] = pb.UpdateProductResponse(product=pb.Product(id="p1", name="Atlas"))
    for verb in ("pause", "activate", "kill"):
        assert (await nanoclaw("product", verb, "Atlas", "-r", "because")).code == 0
    assert [(one.product_id, one.status, one.reason) for one in far_side.requests("UpdateProduct")] == [
        ("p1", pb.PRODUCT_STATUS_PAUSED, "because"),
        ("p1", pb.PRODUCT_STATUS_ACTIVE, "because"),
        ("p1", pb.PRODUCT_STATUS_KILLED, "because"),
    ]


async def test_a_refusal_is_one_line_with_the_next_step_and_exit_code_1(nanoclaw: Any, far_side: Any) -> None:
    """Reason, message, next step; nothing on stdout."""
    far_side.answers["TransitionTask"] = NanoclawError(
        Kind.CONFLICT, "STALE_VERSION", "version 3 is not 4", next_step="read the task again", expected=3, actual=4
    )
    ran = await nanoclaw("task", "move", "t1", "DONE", "--expected-version", "3")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error STALE_VERSION: version 3 is not 4; next step: read the task again\n"
    ran = await nanoclaw("task", "move", "t1", "DONE", "--json")
    assert ran.code == 1
    assert ran.json["error"]["reason"] == "STALE_VERSION"
    assert ran.json["error"]["facts"]["actual"] == "4"


async def test_several_violations_are_a_line_each(nanoclaw: Any, far_side: Any) -> None:
    """All at once, as the kernel gives them."""
    far_side.answers["TransitionTask"] = NanoclawError(
        Kind.PRECONDITION,
        "TRANSITION_REFUSED",
        "2 rules are broken",
        violations=[Violation("A", "first", "do a"), Violation("B", "second")],
    )
    ran = await nanoclaw("task", "move", "t1", "DONE")
    assert ran.err.splitlines() == [
        "error TRANSITION_REFUSED: 2 rules are broken",
        "  A: first → do a",
        "  B: second",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("task", "move", "t1"),
        ("task", "move", "t1", "FINISHED"),
        ("task", "create", "x", "--metadata", "{"),
        ("task", "create", "x", "--metadata", "[]"),
        ("task", "watch", "--until", "DONE"),
        ("task", "override", "t1", "-r", "x", "--accepted-risk", "y", "--review-by", "soon"),
        ("dance",),
    ],
)
async def test_wrong_usage_is_exit_code_2_and_asks_nobody(nanoclaw: Any, far_side: Any, arguments: Any) -> None:
    """A script tells a typo from a refusal."""
    ran = await nanoclaw(*arguments)
    assert ran.code == 2
    assert far_side.asked == []


async def test_without_services_or_a_token_it_says_what_to_do(nanoclaw: Any, home: Any, far_side: Any) -> None:
    """The first errors that a newcomer meets."""
    ran = await nanoclaw("--as", "ana", "task", "list")
    assert ran.code == 1
    assert ran.err.startswith("error NO_TOKEN: there is no token of operator 'ana'")
    assert "nanoclaw operator add" in ran.err
    (home / "run" / "governance.sock").unlink()
    ran = await nanoclaw("task", "list")
    assert ran.code == 1
    assert ran.err.startswith("error NOT_RUNNING: governance is not running")
    assert "nanoclaw up" in ran.err


async def test_another_operator_speaks_with_their_own_token(nanoclaw: Any, far_side: Any) -> None:
    """`operator add` makes one, `--as` uses it, `operator remove` takes it back."""
    ran = await nanoclaw("operator", "add", "ana", "--role", "admin", "--json")
    assert ran.json["principal"] == "operator:ana"
    await nanoclaw("--as", "ana", "task", "list")
    assert far_side.callers == ["operator:ana"]
    assert (await nanoclaw("operator", "add", "ana", "--role", "admin")).err.startswith("error OPERATOR_EXISTS")
    assert (await nanoclaw("operator", "add", "bob", "--role", "king")).code == 1
    await nanoclaw("operator", "remove", "ana")
    assert (await nanoclaw("--as", "ana", "task", "list")).err.startswith("error NO_TOKEN")
