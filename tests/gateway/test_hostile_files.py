"""Files that are meant to do harm: each is dealt with, does none, and never delays the good one after it."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asyncinotify import Mask

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_ipc_gateway.seats import SETTLES

GOOD = {"type": "gov_create", "title": "good", "task_type": "BUG"}
OUTSIDE = "outside-secret"


def symlink(tasks: Path) -> None:
    (tasks / "bad.json").symlink_to(tasks.parents[2] / OUTSIDE)


def dangling_symlink(tasks: Path) -> None:
    (tasks / "bad.json").symlink_to("/nowhere")


def symlink_to_itself(tasks: Path) -> None:
    (tasks / "bad.json").symlink_to("bad.json")


def symlink_to_a_directory(tasks: Path) -> None:
    (tasks / "bad.json").symlink_to("/")


def hard_link(tasks: Path) -> None:
    os.link(tasks.parents[2] / OUTSIDE, tasks / "bad.json")


def fifo(tasks: Path) -> None:
    os.mkfifo(tasks / "bad.json")


def unix_socket(tasks: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tasks / "bad.json"))


def a_gigabyte(tasks: Path) -> None:
    with (tasks / "bad.tmp").open("wb") as file:
        file.truncate(1 << 30)
    (tasks / "bad.tmp").rename(tasks / "bad.json")


def content(raw: bytes) -> Callable[[Path], None]:
    def write(tasks: Path) -> None:
        (tasks / "bad.tmp").write_bytes(raw)
        (tasks / "bad.tmp").rename(tasks / "bad.json")

    return write


SPECIAL = {
    "symlink": (symlink, "NOT_A_FILE"),
    "dangling symlink": (dangling_symlink, "NOT_A_FILE"),
    "symlink to itself": (symlink_to_itself, "NOT_A_FILE"),
    "symlink to a directory": (symlink_to_a_directory, "NOT_A_FILE"),
    "hard link": (hard_link, "LINKED"),
    "fifo": (fifo, "NOT_A_FILE"),
    "socket": (unix_socket, "NOT_A_FILE"),
    "a gigabyte": (a_gigabyte, "TOO_LARGE"),
}
CONTENT = {
    "empty": (b"", "BAD_JSON"),
    "half an object": (b'{"type":"gov_create","title":', "BAD_JSON"),
    "binary": (bytes(range(256)) * 10, "NOT_UTF8"),
    "an array": (b"[]", "NOT_AN_OBJECT"),
    "deep": (b'{"a":' * 65 + b"1" + b"}" * 65, "TOO_DEEP"),
    "very deep": (b"[" * 1_000_000, "TOO_DEEP"),
    "duplicate members": (b'{"type":"gov_create","type":"gov_assign"}', "DUPLICATE_MEMBER"),
    "half a surrogate": (b'{"type":"gov_create","title":"\\ud800"}', "UNPAIRED_SURROGATE"),
    "NaN": (b'{"type":"gov_create","x":NaN}', "BAD_NUMBER"),
    "unknown type": (b'{"type":"shutdown"}', "UNKNOWN_TYPE"),
    "no type": (b"{}", "UNKNOWN_TYPE"),
    "a byte too many": (b'{"type":"gov_create","title":"' + b"x" * (1024 * 1024) + b'"}', "TOO_LARGE"),
}


@pytest.mark.parametrize("kind", SPECIAL)
async def test_what_is_no_plain_file_is_refused_and_the_next_file_is_answered(served: Any, kind: str) -> None:
    """Nothing is followed, nothing blocks, nothing outside of the mailbox is read or changed."""
    make, code = SPECIAL[kind]
    outside = served.home / OUTSIDE
    outside.write_text(json.dumps(GOOD))
    agent = served.mailbox()
    make(agent.path / "tasks")
    served.gateway_look("developer")
    good = await agent.ask(GOOD)
    assert good["status"] == "executed"
    bad = await agent.answer("bad")
    assert (bad["status"], bad["code"]) == ("failed", code)
    assert not (agent.path / "tasks" / "bad.json").is_symlink()
    assert list((agent.path / "tasks").iterdir()) == []
    assert outside.read_text() == json.dumps(GOOD)
    assert len(served.governance.tasks) == 1
    (file,) = (await served.stub().ListQuarantine(gateway.ListQuarantineRequest())).files
    assert (file.code, file.file_name, file.group) == (code, "bad.json", "developer")


@pytest.mark.parametrize("kind", CONTENT)
async def test_a_bad_content_is_quarantined_and_answered_and_the_next_file_is_too(served: Any, kind: str) -> None:
    """The sender learns why; the operator finds the file as it was."""
    raw, code = CONTENT[kind]
    agent = served.mailbox()
    content(raw)(agent.path / "tasks")
    good = await agent.ask(GOOD)
    assert good["status"] == "executed"
    bad = await agent.answer("bad")
    assert (bad["status"], bad["code"]) == ("failed", code)
    assert bad["error"]
    (file,) = (await served.stub().ListQuarantine(gateway.ListQuarantineRequest(group="developer"))).files
    assert (file.code, file.size_bytes) == (code, len(raw))
    kept = served.home / "ipc" / "errors" / f"{file.id}.json"
    if code != "TOO_LARGE":
        assert kept.read_bytes() == raw
        assert kept.stat().st_mode & 0o777 == 0o600
    assert not list((served.home / "ipc" / ".claimed").iterdir())


@pytest.mark.parametrize(
    "name",
    [b"a\nb.json", b"\x1b[31m.json", b"\xff\xfe.json", b"..json", b".hidden.json", b"x" * 250 + b".json", b"a b.json",
     b"-rf.json", b"%2e%2e%2f.json", "é.json".encode()],
)  # fmt: skip
async def test_a_bad_name_is_no_obstacle(served: Any, name: bytes) -> None:
    """With a request_id the request is answered under that; without one it can't be, and is not carried out."""
    agent = served.mailbox()
    tasks = os.fsencode(agent.path / "tasks")
    for number, request in enumerate(({**GOOD, "request_id": "r-1"}, GOOD)):
        (agent.path / "tasks" / "tmp").write_text(json.dumps(request))
        (agent.path / "tasks" / "tmp").rename(os.fsdecode(tasks + b"/" + name))
        assert (await agent.ask({**GOOD, "request_id": f"good-{number}"}))["status"] == "executed"
    assert (await agent.answer("r-1"))["status"] == "executed"
    if name == b"-rf.json":  # fit to be answered under
        assert (await agent.answer("-rf"))["status"] == "executed"
        return
    files = (await served.stub().ListQuarantine(gateway.ListQuarantineRequest())).files
    assert [file.code for file in files] == ["BAD_FILE_NAME"]
    assert files[0].file_name.isprintable()
    assert len(served.governance.tasks) == 3
    assert list((agent.path / "tasks").iterdir()) == []


@pytest.mark.parametrize("name", ["a.json.tmp", "a.txt", "json", "a.JSON"])
async def test_only_names_that_end_in_json_count(served: Any, name: str) -> None:
    """An agent's temporary files are its own business."""
    agent = served.mailbox()
    (agent.path / "tasks" / name).write_text(json.dumps(GOOD))
    await agent.ask({**GOOD, "title": "other"})
    assert [task.title for task in served.governance.tasks.values()] == ["other"]
    assert (agent.path / "tasks" / name).exists()


async def test_a_directory_is_left_alone(served: Any) -> None:
    """It is no file, and not ours to remove; what is in it is never looked at."""
    agent = served.mailbox()
    (agent.path / "tasks" / "x" / "y.json").mkdir(parents=True)
    (agent.path / "tasks" / "x").rename(agent.path / "tasks" / "dir.json")
    await served.sweep()
    assert (await agent.ask(GOOD))["status"] == "executed"
    assert (agent.path / "tasks" / "dir.json" / "y.json").is_dir()


async def test_a_half_written_file_is_waited_for(served: Any) -> None:
    """A writer that does not rename is read when it is done, and others are answered meanwhile."""
    agent = served.mailbox()
    raw = json.dumps({**GOOD, "title": "slow"}).encode()
    path = agent.path / "tasks" / "slow.json"
    with path.open("wb", buffering=0) as file:
        file.write(raw[:10])
        path.rename(agent.path / "tasks" / "slow2.json")  # seen now, with ten bytes in it
        assert (await agent.ask(GOOD))["status"] == "executed"
        file.write(raw[10:])
        answer = await agent.answer("slow2")
        assert answer["status"] == "executed"
        file.write(b" " * 10_000)  # into its own file, which the answer is not
        assert await agent.answer("slow2") == answer
    assert {task.title for task in served.governance.tasks.values()} == {"good", "slow"}


async def test_a_file_that_never_stops_growing_is_given_up(served: Any) -> None:
    """And its writer can't keep more than its own seat."""
    agent = served.mailbox()
    path = agent.path / "tasks" / "endless.json"
    writing = True

    async def write() -> None:
        with path.open("wb", buffering=0) as file:
            path.rename(agent.path / "tasks" / "endless2.json")
            while writing:
                file.write(b" ")
                await asyncio.sleep(0.01)

    writer = asyncio.create_task(write())
    answer = await agent.answer("endless2")
    assert answer["code"] == "BAD_JSON"
    writing = False
    await writer
    assert (await agent.ask(GOOD))["status"] == "executed"


async def test_a_file_published_by_link_and_unlink_is_taken(served: Any) -> None:
    """For a moment it has two names, and is waited for."""
    agent = served.mailbox()
    temporary = agent.path / "tasks" / "a.tmp"
    temporary.write_text(json.dumps(GOOD))
    os.link(temporary, agent.path / "tasks" / "linked.json")
    served.gateway_look("developer")
    temporary.unlink()
    assert (await agent.answer("linked"))["status"] == "executed"


async def test_hundreds_of_bad_files_delay_a_good_one_by_little(served: Any) -> None:
    """Workers are bounded, and half-written files do not occupy them."""
    agent = served.mailbox()
    for number in range(300):
        agent.write(b"{" if number % 2 else b"[" * 100_000, f"bad-{number}.json")
    began = time.monotonic()
    assert (await agent.ask(GOOD))["status"] == "executed"
    assert (await served.mailbox("main").ask(GOOD))["status"] == "executed"
    assert time.monotonic() - began < 30  # a busy machine; half-written ones alone would take longer than that
    for number in range(300):
        await agent.answer(f"bad-{number}")


async def test_half_written_files_hold_no_worker(world: Any) -> None:
    """However many there are and however long they are waited for; past the seats they are not waited for at all."""
    async with world.running(settle_seconds=30.0, drain_seconds=0.0):
        agent = world.mailbox()
        for number in range(40):
            agent.write(b"{", f"half-{number}.json")
        assert (await agent.ask(GOOD))["status"] == "executed"
        answered = [path.name for path in (agent.path / "responses").iterdir() if path.name.startswith("half")]
        assert len(answered) == 40 - SETTLES


async def test_quarantine_is_capped_for_each_group(world: Any) -> None:
    """The newest are kept, the rows tell of the rest, and another group's are not touched."""
    async with world.running(quarantine_cap=5):
        await world.mailbox("main").ask(b"null", "other.json")
        agent = world.mailbox()
        for number in range(12):
            await agent.ask(b"[%d]" % number, f"bad-{number}.json")
        files = (await world.stub().ListQuarantine(gateway.ListQuarantineRequest(group="developer"))).files
        assert [file.file_name for file in files] == [f"bad-{number}.json" for number in (11, 10, 9, 8, 7)]
        kept = sorted(path.name for path in (world.home / "ipc" / "errors").iterdir())
        assert len([name for name in kept if name.startswith("developer-")]) == 5
        assert len([name for name in kept if name.startswith("main-")]) == 1


async def test_a_flood_is_the_flooding_groups_own_trouble(world: Any) -> None:
    """Past its share a group is told to wait, under the request's own name; others are not."""
    async with world.running(per_minute=20):
        agent = world.mailbox()
        for number in range(20):
            assert (await agent.ask({**GOOD, "request_id": f"r-{number}"}))["status"] == "executed"
        denied = await agent.ask({**GOOD, "request_id": "r-x"})
        assert (denied["status"], denied["code"], denied["request_id"]) == ("denied", "RATE_LIMITED", "r-x")
        assert "wait" in denied["next_steps"][0]
        assert (await world.mailbox("main").ask(GOOD))["status"] == "executed"
        assert len(world.governance.tasks) == 21


async def test_more_events_than_the_kernel_keeps_lose_no_file(served: Any) -> None:
    """After an overflow the mailbox is looked through."""
    agent = served.mailbox()
    watch = served.box("developer").watch
    watch.stop()  # nothing is told any more, as when the queue is full
    for number in range(50):
        agent.write({**GOOD, "request_id": f"r-{number}"})
    watch.start()
    watch.on(-1, Mask.Q_OVERFLOW, b"")
    for number in range(50):
        assert (await agent.answer(f"r-{number}"))["status"] == "executed"


async def test_an_agent_that_replaces_its_directories_harms_itself_only(served: Any) -> None:
    """Where agents run as our own user they can; the sweep puts things right, and nothing is written elsewhere."""
    agent = served.mailbox()
    elsewhere = served.home / "elsewhere"
    elsewhere.mkdir()
    (agent.path / "responses").rename(agent.path / "gone")
    (agent.path / "responses").symlink_to(elsewhere)
    (agent.path / "gov_pipeline.json").unlink(missing_ok=True)
    (agent.path / "gov_pipeline.json").mkdir()
    agent.write(GOOD, "first.json")
    await served.until(lambda: (agent.path / "gone" / "first.json").exists())
    await served.sweep()
    assert (await agent.ask(GOOD))["status"] == "executed"
    assert list(elsewhere.iterdir()) == []
    await served.until(lambda: (agent.path / "gov_pipeline.json").is_file())


async def test_a_gone_tasks_directory_is_made_and_watched_again(served: Any) -> None:
    """By the sweep."""
    agent = served.mailbox()
    (agent.path / "tasks").rename(agent.path / "old")
    await served.sweep()
    assert (await agent.ask(GOOD))["status"] == "executed"


async def test_one_mailbox_can_not_answer_into_another(served: Any) -> None:
    """A request_id is a name inside of one's own responses, whatever it looks like."""
    agent = served.mailbox()
    for number, name in enumerate(["../../main/responses/x", "..", "x/../y", "/etc/x", "x\u0000y"]):
        answer = await agent.answer(agent.write({**GOOD, "request_id": name}, f"n-{number}.json"))
        assert (answer["request_id"], answer["code"]) == (f"n-{number}", "INVALID_FIELD")
    assert list((served.home / "ipc" / "main" / "responses").iterdir()) == []
