"""Mailboxes: made as agents expect them, opened for an attempt, drained and closed after it."""

import asyncio
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway.folders import Owners
from nanoclaw_ipc_gateway.mailbox import Home, Origin

CREATE = {"type": "gov_create", "title": "t", "task_type": "BUG"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def opening(attempt_id: str = "nc-a-1", **changes: Any) -> gateway.OpenMailboxRequest:
    """A request of the dispatcher."""
    fields = {
        "request_id": f"open-{attempt_id}",
        "group": "developer",
        "task_id": "t-1",
        "fence": 1,
        "traceparent": TRACE,
    }
    return gateway.OpenMailboxRequest(attempt_id=attempt_id, **(fields | changes))


def closing(attempt_id: str = "nc-a-1") -> gateway.CloseMailboxRequest:
    """A request of the dispatcher."""
    return gateway.CloseMailboxRequest(request_id=f"close-{attempt_id}", attempt_id=attempt_id)


def mode(path: Path) -> int:
    """A path's permissions."""
    return stat.S_IMODE(path.lstat().st_mode)


async def test_an_attempts_mailbox_is_ready_when_it_is_open(served: Any) -> None:
    """Directories, modes, secret, and snapshots that know the attempt's task."""
    served.governance.tasks["t-1"] = governance.Task(id="t-1", assigned_group="developer", version=7)
    path = Path((await served.stub("services/dispatcher").OpenMailbox(opening())).path)
    assert path == served.home / "attempts" / "nc-a-1" / "ipc"
    modes = {name: mode(path / name) for name in ("", "tasks", "messages", "input", "responses", ".ipc_secret")}
    assert modes == {
        "": 0o750, "tasks": 0o770, "messages": 0o770, "input": 0o770, "responses": 0o750, ".ipc_secret": 0o640,
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}", (path / ".ipc_secret").read_text())
    assert [task["version"] for task in served.attempt("nc-a-1").snapshot("gov_pipeline.json")["tasks"]] == [7]
    assert served.attempt("nc-a-1").snapshot("current_tasks.json") == []
    assert served.attempt("nc-a-1").snapshot("ext_capabilities.json")["providers_available"] == ["json", "http"]
    assert mode(path / "gov_pipeline.json") == 0o640
    assert mode(served.home / "ipc" / ".claimed") == 0o700


async def test_what_an_attempt_writes_is_stamped_with_it(served: Any) -> None:
    """Group and attempt come from the directory, and reach governance."""
    await served.stub("services/dispatcher").OpenMailbox(opening())
    assert (await served.attempt("nc-a-1").ask(CREATE))["status"] == "executed"
    assert served.governance.faults.calls[0][:3] == ("CreateTask", "group:developer", "nc-a-1")


async def test_each_mailbox_has_a_secret_of_its_own(served: Any) -> None:
    """A signature of one is worth nothing in another."""
    dispatcher = served.stub("services/dispatcher")
    for attempt in ("nc-a-1", "nc-a-2"):
        await dispatcher.OpenMailbox(opening(attempt))
    call = {"type": "ext_call", "request_id": "e1", "provider": "p", "action": "a", "params": {}}
    signed = served.attempt("nc-a-1").sign(call)
    assert (await served.attempt("nc-a-2").ask(signed))["code"] == "BAD_SIGNATURE"


async def test_opening_again_is_the_same_and_opening_otherwise_is_refused(served: Any) -> None:
    """Idempotent by attempt; another task's attempt needs an id of its own."""
    dispatcher = served.stub("services/dispatcher")
    first = await dispatcher.OpenMailbox(opening())
    secret = (Path(first.path) / ".ipc_secret").read_text()
    assert await dispatcher.OpenMailbox(opening()) == first
    assert await dispatcher.OpenMailbox(opening(request_id="another")) == first
    assert (Path(first.path) / ".ipc_secret").read_text() == secret
    for changes in ({"group": "security"}, {"task_id": "t-2"}, {"fence": 2}):
        with pytest.raises(NanoclawError) as refusal:
            await dispatcher.OpenMailbox(opening(request_id="third", **changes))
        assert refusal.value.reason == "ATTEMPT_EXISTS"


@pytest.mark.parametrize(
    "changes",
    [{"attempt_id": "../x"}, {"attempt_id": ""}, {"group": "errors"}, {"group": "../x"}, {"traceparent": "x"},
     {"request_id": ""}, {"task_id": "a/b"}],
)  # fmt: skip
async def test_names_that_could_be_paths_are_refused(served: Any, changes: dict[str, Any]) -> None:
    """Nothing is made."""
    with pytest.raises(NanoclawError) as refusal:
        await served.stub("services/dispatcher").OpenMailbox(opening(**{"attempt_id": "nc-a-1", **changes}))
    assert refusal.value.reason == "INVALID_FIELD"
    assert list((served.home / "attempts").iterdir()) == []


async def test_closing_decides_everything_that_the_attempt_wrote(served: Any) -> None:
    """Also what it wrote with its last breath, and what is still under way."""
    dispatcher = served.stub("services/dispatcher")
    await dispatcher.OpenMailbox(opening())
    agent = served.attempt("nc-a-1")
    release = asyncio.Event()

    async def wait(rpc: str) -> None:
        await release.wait()

    served.governance.faults.before = wait
    names = [agent.write(CREATE) for _ in range(40)]
    close = asyncio.create_task(dispatcher.CloseMailbox(closing(), timeout=20))
    await served.until(lambda: served.governance.faults.calls)
    assert not close.done()
    release.set()
    response = await close
    for name in names:
        assert (agent.path / "responses" / f"{name}.json").exists()
    assert response.drained >= 1
    assert response.last_activity.seconds > 0
    assert len(served.governance.tasks) == 40


async def test_a_closed_mailbox_is_closed_for_good(served: Any) -> None:
    """A process that outlived its attempt writes into the void; closing again answers the same."""
    dispatcher = served.stub("services/dispatcher")
    await dispatcher.OpenMailbox(opening())
    agent = served.attempt("nc-a-1")
    first = await dispatcher.CloseMailbox(closing())
    assert await dispatcher.CloseMailbox(closing()) == first
    again = await dispatcher.CloseMailbox(gateway.CloseMailboxRequest(request_id="x", attempt_id="nc-a-1"))
    assert (again.drained, again.HasField("last_activity")) == (0, False)
    agent.write(CREATE, "late.json")
    await served.sweep()
    await served.mailbox().ask(CREATE)
    assert (agent.path / "tasks" / "late.json").exists()
    assert len(served.governance.tasks) == 1
    with pytest.raises(NanoclawError) as refusal:
        await dispatcher.OpenMailbox(opening(request_id="anew"))
    assert refusal.value.reason == "MAILBOX_CLOSED"
    with pytest.raises(NanoclawError) as refusal:
        await dispatcher.CloseMailbox(closing("nc-unknown"))
    assert refusal.value.reason == "MAILBOX_NOT_FOUND"


async def test_open_mailboxes_are_watched_again_after_a_restart_and_closed_ones_are_not(world: Any) -> None:
    """What was written while nobody looked is taken in."""
    async with world.running():
        dispatcher = world.stub("services/dispatcher")
        for attempt in ("nc-a-1", "nc-a-2"):
            await dispatcher.OpenMailbox(opening(attempt))
        await dispatcher.CloseMailbox(closing("nc-a-2"))
    name = world.attempt("nc-a-1").write(CREATE)
    world.attempt("nc-a-2").write(CREATE)
    async with world.running():
        assert (await world.attempt("nc-a-1").answer(name))["status"] == "executed"
        assert {box.mailbox.origin.attempt_id for box in world.gateway.intake.boxes()} == {"", "nc-a-1"}
    assert [call[2] for call in world.governance.faults.calls] == ["nc-a-1"]


async def test_groups_come_from_the_configuration(world: Any) -> None:
    """Each has a standing mailbox; an attempt of an unknown one brings it."""
    (world.home / "config").mkdir()
    (world.home / "config" / "groups.toml").write_text('[groups.main]\nrole = "main"\n[groups.writers]\n')
    async with world.running():
        assert {box.mailbox.origin.group for box in world.gateway.intake.boxes()} == {"main", "writers"}
        await world.stub("services/dispatcher").OpenMailbox(opening(group="painters"))
        assert (await world.mailbox("painters").ask(CREATE))["status"] == "executed"


def test_directories_go_to_whom_they_are_configured_for(tmp_path: Path) -> None:
    """Mailbox and answers to the gateway, requests to both; what lies around mailboxes to the gateway alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    home = Home(tmp_path, Owners(gateway_uid=10001, agents_gid=10002))
    mailbox = home.open(Origin(1, "developer", "nc-a-1"))
    mailbox.respond("r", b"{}")
    mailbox.show("gov_pipeline.json", b"{}")
    ipc = tmp_path / "attempts" / "nc-a-1" / "ipc"
    for name in ("", "tasks", "messages", "input", "responses", ".ipc_secret", "responses/r.json", "gov_pipeline.json"):
        found = (ipc / name).stat()
        assert (found.st_uid, found.st_gid) == (10001, 10002), name
    for name in (".claimed", "errors", ".outgoing"):
        found = (tmp_path / "ipc" / name).stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (10001, 0, 0o700)
    mailbox.close()
    home.close()


async def test_a_request_becomes_its_own_answer(served: Any) -> None:
    """No file is made and none removed; what a file of another mode and age becomes is like any other answer."""
    agent = served.mailbox()
    temporary = agent.path / "tasks" / "x.tmp"
    temporary.write_text(json.dumps({**CREATE, "metadata": {"long": "x" * 5000}}))
    temporary.chmod(0o666)
    before = temporary.stat().st_ino
    temporary.rename(agent.path / "tasks" / "x.json")
    assert (await agent.answer("x"))["status"] == "executed"
    path = agent.path / "responses" / "x.json"
    assert (path.stat().st_ino, mode(path)) == (before, 0o640)
    assert list((served.home / "ipc" / ".claimed").iterdir()) == []


async def test_a_request_that_got_a_second_name_is_not_written_to(served: Any) -> None:
    """An agent that keeps a file open can link it anew; the answer then is a file of its own."""
    agent = served.mailbox()
    holding = asyncio.Event()

    async def hold(rpc: str) -> None:
        await holding.wait()

    served.governance.faults.before = hold
    agent.write(CREATE, "x.json")
    await served.until(lambda: served.governance.faults.calls)
    (claimed,) = (served.home / "ipc" / ".claimed").iterdir()
    os.link(claimed, agent.path / "kept")
    content = claimed.read_bytes()
    holding.set()
    assert (await agent.answer("x"))["status"] == "executed"
    assert (agent.path / "kept").read_bytes() == content


async def test_the_secret_survives_a_restart(world: Any) -> None:
    """An agent that runs on signs on."""
    async with world.running():
        secret = (world.mailbox().path / ".ipc_secret").read_text()
    world.settings = replace(world.settings)
    async with world.running():
        assert (world.mailbox().path / ".ipc_secret").read_text() == secret
