"""The provider logs: the system's own lines, bounded, and nothing else of the machine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nanoclaw_broker.providers import ActionFailed, Effect, Environment
from nanoclaw_broker.providers.log_files import EntryParams, QueryParams
from nanoclaw_broker.providers.logs import provider


def line(number: int, level: str = "info", **fields: Any) -> str:
    return json.dumps(
        {"time": f"2026-11-21T12:00:{number:02}.000000Z", "level": level, "event": f"e{number}", **fields}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    rows = [line(1), line(2, "warning", trace_id="a" * 32), "not json at all", line(3, "error", text="boom")]
    (tmp_path / "logs" / "governance.log").write_text("\n".join(rows) + "\n")
    return tmp_path / "logs"


async def ask(folder: Path, action: str, **params: Any) -> Any:
    acting = provider(Environment(home=folder.parent)).by_name[action]
    return (await acting.execute(acting.params(**params), Effect("key", "developer"))).data


def events(answer: Any) -> list[str]:
    return [one["fields"]["event"] if "fields" in one else one["line"] for one in answer["entries"]]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["e3", "not json at all", "e2", "e1"]),
        ({"level": "warning"}, ["e3", "e2"]),
        ({"event": "e1"}, ["e1"]),
        ({"contains": "boom"}, ["e3"]),
        ({"contains": "not json"}, ["not json at all"]),
        ({"trace_id": "a" * 32}, ["e2"]),
        ({"since": "2026-11-21T12:00:02Z"}, ["e3", "e2"]),
        ({"until": "2026-11-21T12:00:01.5Z"}, ["e1"]),
        ({"limit": 2}, ["e3", "not json at all"]),
    ],
)
async def test_lines_are_found_newest_first(folder: Path, filters: dict[str, Any], expected: list[str]) -> None:
    """All filters given must hold."""
    assert events(await ask(folder, "query", service="governance", **filters)) == expected


async def test_an_entry_is_read_by_the_position_that_query_gave(folder: Path) -> None:
    """Whole lines only: a position in the middle of one is refused."""
    found = await ask(folder, "query", service="governance")
    for one in found["entries"]:
        entry = await ask(folder, "entry", service="governance", position=one["position"])
        assert entry.get("fields") == one.get("fields")
    for position in (1, 10_000_000):
        with pytest.raises(ActionFailed) as raised:
            await ask(folder, "entry", service="governance", position=position)
        assert raised.value.code == "ENTRY_NOT_FOUND"


async def test_reads_are_bounded(folder: Path) -> None:
    """Of a huge file the end is searched; long lines are cut, the answer stays below the cap and says there is more."""
    huge = folder / "broker.log"
    with huge.open("w") as file:
        for number in range(60_000):
            file.write(json.dumps({"level": "info", "event": f"n{number}", "pad": "x" * 150}) + "\n")
        file.write(json.dumps({"event": "long", "pad": "y" * 100_000}) + "\n")
    assert huge.stat().st_size > 10_000_000
    answer = await ask(folder, "query", service="broker", limit=100)
    assert answer["more"] is True
    assert (answer["entries"][0]["whole"], len(answer["entries"][0]["line"])) == (False, 2000)
    assert len(json.dumps(answer).encode()) < 50_000
    nothing = await ask(folder, "query", service="broker", event="n0")
    assert nothing == {"entries": [], "more": True}


@pytest.mark.parametrize(
    "service", ["../secrets/broker", "..", "", "a/b", "/etc/passwd", "governance.log", "x\x00", "a" * 65, "GOVERNANCE"]
)
async def test_a_name_is_a_name_and_no_path(folder: Path, service: str) -> None:
    """The schema takes names only."""
    for params in (QueryParams, EntryParams):
        with pytest.raises(ValidationError):
            params(service=service, **({"position": 0} if params is EntryParams else {}))


async def test_links_devices_and_pipes_are_not_opened(folder: Path, tmp_path: Path) -> None:
    """What is not a regular file of the folder is no log, and opening it does not hang."""
    (tmp_path / "secret").write_text("planted\n")
    (folder / "linked.log").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe.log")
    (folder / "folder.log").mkdir()
    for service in ("linked", "pipe", "folder", "absent"):
        with pytest.raises(ActionFailed) as raised:
            await ask(folder, "query", service=service)
        assert raised.value.code == "LOG_NOT_FOUND"
    assert [one["service"] for one in (await ask(folder, "services"))["services"]] == ["governance"]


async def test_no_logs_at_all_is_an_empty_list(tmp_path: Path) -> None:
    """A home without a logs folder has none."""
    assert await ask(tmp_path / "logs", "services") == {"services": []}


async def test_logs_through_the_broker(broker: Any) -> None:
    """The whole way, from grant to answer."""
    (broker.home / "logs" / "governance.log").write_text(line(1) + "\n")
    await broker.grant("logs", 2)
    answer = await broker.call("logs", "query", {"service": "governance"})
    assert json.loads(answer.data_json)["entries"][0]["fields"]["event"] == "e1"
    assert (await broker.call("logs", "query", {"service": "../x"})).code == "INVALID_PARAMS"
