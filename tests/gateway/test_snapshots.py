"""Snapshots: what an agent can read without asking, refreshed where something changed and nowhere else."""

from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_ipc_gateway.board import Board

CREATE = {"type": "gov_create", "title": "t", "task_type": "BUG"}
FIELDS = {
    *("id", "title", "description", "task_type", "state", "priority", "product", "product_id", "scope"),
    *("assigned_group", "executor", "gate", "version", "created_at", "updated_at"),
}


def tasks(agent: Any) -> dict[str, dict[str, Any]]:
    """The tasks in an agent's snapshot."""
    try:
        return {task["id"]: task for task in agent.snapshot("gov_pipeline.json")["tasks"]}
    except FileNotFoundError:
        return {}


async def test_main_sees_all_tasks_and_the_others_their_own(served: Any) -> None:
    """Under the names that agents know, null where nothing is set."""
    main, developer, security = served.mailbox("main"), served.mailbox(), served.mailbox("security")
    await main.ask({**CREATE, "id": "t-1", "assigned_group": "developer", "gate": "Security"})
    await main.ask({**CREATE, "id": "t-2", "assigned_group": "security"})
    await main.ask({**CREATE, "id": "t-3"})
    await served.until(lambda: tasks(main).keys() == {"t-1", "t-2", "t-3"})
    await served.until(lambda: tasks(developer).keys() == {"t-1"} and tasks(security).keys() == {"t-2"})
    task = tasks(developer)["t-1"]
    assert task.keys() == FIELDS
    assert (task["state"], task["gate"], task["priority"], task["version"]) == ("INBOX", "Security", "P2", 1)
    assert (task["product"], task["description"]) == (None, None)
    assert main.snapshot("gov_pipeline.json")["generatedAt"].endswith("Z")


async def test_a_task_that_moves_is_shown_where_it_is_now(served: Any) -> None:
    """To its old group, its new one and main; an uninvolved mailbox is not written to."""
    main, developer, security = served.mailbox("main"), served.mailbox(), served.mailbox("security")
    await main.ask({**CREATE, "id": "t-1", "assigned_group": "developer"})
    await main.ask({**CREATE, "id": "t-2", "assigned_group": "developer"})
    await served.until(lambda: "t-2" in tasks(developer))  # what the opening of mailboxes had written is over by now
    before = (security.path / "gov_pipeline.json").stat().st_ino
    await developer.ask({"type": "gov_transition", "taskId": "t-1", "toState": "DOING"})
    await served.until(lambda: tasks(developer)["t-1"]["state"] == "DOING" and tasks(main)["t-1"]["version"] == 2)
    assert (security.path / "gov_pipeline.json").stat().st_ino == before
    await main.ask({"type": "gov_assign", "taskId": "t-1", "assigned_group": "security"})
    await served.until(lambda: "t-1" in tasks(security) and "t-1" not in tasks(developer))


async def test_a_grant_is_shown_to_its_group(served: Any) -> None:
    """With levels as numbers, as agents print them, and schemas of what may be called; gone when it is revoked."""
    main, developer = served.mailbox("main"), served.mailbox()
    await main.ask({"type": "ext_grant", "group_folder": "developer", "provider": "json", "access_level": 1})

    def grants(agent: Any) -> Any:
        return agent.snapshot("ext_capabilities.json")["capabilities"]

    await served.until(lambda: grants(developer))
    (grant,) = grants(developer)
    assert (grant["provider"], grant["access_level"], grant["allowed_actions"], grant["expires_at"]) == (
        "json", 1, None, None,
    )  # fmt: skip
    assert grant["actions"] == {
        "transform": {
            "level": 1, "least_level": 1, "kind": "pure", "description": "changes JSON", "status": "available",
            "params_schema": {"type": "object"},
        },
        "drop": {
            "level": 3, "least_level": 2, "kind": "mutating", "description": "drops it",
            "status": "requires_higher_level",
        },
    }  # fmt: skip
    assert grants(main) == []
    await main.ask({"type": "ext_revoke", "group_folder": "developer", "provider": "json"})
    await served.until(lambda: not grants(developer))


async def test_a_storm_of_changes_ends_with_everything_shown(served: Any) -> None:
    """And nothing is asked of governance that its stream has told."""
    main = served.mailbox("main")
    for number in range(150):
        served.governance.tasks[f"t-{number}"] = governance.Task(id=f"t-{number}", state=governance.TASK_STATE_READY)
        await served.governance.tell(f"t-{number}")
    await served.until(lambda: len(tasks(main)) == 150)
    assert served.governance.gets == []


async def test_an_attempts_task_is_asked_for_only_where_the_stream_has_not_told_of_it(served: Any) -> None:
    """A mailbox that is opened shows its task either way, and the neighbours follow by themselves."""
    dispatcher, main = served.stub("services/dispatcher"), served.mailbox("main")
    await main.ask({**CREATE, "id": "t-1", "assigned_group": "developer"})
    await served.until(lambda: tasks(main))
    served.governance.tasks["t-2"] = task("t-2", "developer")
    for task_id in ("t-1", "t-2"):
        await dispatcher.OpenMailbox(
            gateway.OpenMailboxRequest(
                request_id=task_id, attempt_id=f"nc-{task_id}", group="developer", task_id=task_id, fence=1
            )
        )
        assert task_id in tasks(served.attempt(f"nc-{task_id}"))
    assert served.governance.gets == ["t-2"]
    await served.until(lambda: tasks(main).keys() == tasks(served.attempt("nc-t-1")).keys() == {"t-1", "t-2"})


async def test_while_governance_can_not_tell_an_attempts_task_is_asked_for(served: Any) -> None:
    """What is known from before an outage may be old."""
    main = served.mailbox("main")
    await main.ask({**CREATE, "id": "t-1", "assigned_group": "developer"})
    await served.until(lambda: tasks(main))
    await served.restart_far_side(lambda: served.governance.tasks["t-1"].MergeFrom(governance.Task(version=9)))
    await served.stub("services/dispatcher").OpenMailbox(
        gateway.OpenMailboxRequest(request_id="o", attempt_id="nc-1", group="developer", task_id="t-1", fence=1)
    )
    assert tasks(served.attempt("nc-1"))["t-1"]["version"] == 9


async def test_snapshots_follow_again_after_an_outage(served: Any) -> None:
    """Whatever changed meanwhile."""
    main = served.mailbox("main")
    await main.ask({**CREATE, "id": "t-1"})
    await served.until(lambda: tasks(main))
    await served.restart_far_side(lambda: served.governance.tasks.pop("t-1"))
    await served.until(lambda: not tasks(main))


def task(task_id: str, group: str = "", state: int = governance.TASK_STATE_READY) -> governance.Task:
    """A task for a board."""
    return governance.Task(id=task_id, assigned_group=group, state=state)  # type: ignore[arg-type]


def test_a_board_that_is_full_lets_done_tasks_go_first() -> None:
    """And says that it does not hold all."""
    board = Board(3)
    for found in (task("a"), task("b", state=governance.TASK_STATE_DONE), task("c")):
        board.put(found)
    assert not board.truncated
    board.put(task("d"))
    assert board.truncated
    assert [text.partition('"id":"')[2][0] for text in board.seen_by("main")] == ["a", "c", "d"]
    assert board.put(task("e", "x")) == {"main", "x"}


def test_a_board_holds_so_much_text_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long descriptions are: done tasks go first, then the oldest, and what goes makes room again."""
    monkeypatch.setattr("nanoclaw_ipc_gateway.board.MOST_TEXT", 10_000)
    board = Board(1000)
    for name in "abcde":
        long = task(name, state=governance.TASK_STATE_DONE if name == "b" else governance.TASK_STATE_READY)
        long.description = "x" * 3000
        board.put(long)
    assert board.truncated
    assert [text.partition('"id":"')[2][0] for text in board.seen_by("main")] == ["c", "d", "e"]
    for name in "cde":
        board.put(task(name))
    for number in range(10):
        board.put(task(f"short{number}"))
    assert len(board) == 13
    board.replace([task("f")], truncated=False)
    assert (len(board), board.truncated) == (1, False)


async def test_snapshots_read_no_more_than_they_hold(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board of long descriptions is not read to its end, and says so."""
    monkeypatch.setattr("nanoclaw_ipc_gateway.board.MOST_TEXT", 10_000)
    for number in range(9):
        one = task(f"t{number}", "developer")
        one.description = "x" * 3000
        world.governance.tasks[one.id] = one
    async with world.running():
        agent = world.mailbox()
        await world.until(lambda: agent.snapshot("gov_pipeline.json").get("truncated"))
        assert len(agent.snapshot("gov_pipeline.json")["tasks"]) == 3


def test_a_group_whose_task_makes_room_sees_that() -> None:
    """It is the other's task that is new."""
    board = Board(1)
    board.put(task("a", "x"))
    assert board.put(task("b", "y")) == {"main", "x", "y"}


def test_a_board_knows_who_sees_a_difference() -> None:
    """Main always; a group when a task of its own appears, changes or goes."""
    board = Board(10)
    assert board.put(task("a", "x")) == {"main", "x"}
    assert board.put(task("a", "x")) == set()
    assert board.put(task("a", "y")) == {"main", "x", "y"}
    assert board.replace([task("b", "z")], truncated=False) == {"main", "y", "z"}
