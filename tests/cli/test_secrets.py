"""`nanoclaw secrets check`: what is missing, what nobody uses, what the broker could not take; by name alone."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_cli.processes import signal_process
from nanoclaw_cli.supervisor import Supervisor, read_state

VALUE = "pl4nted-value-of-a-secret"


def put(home: Path, name: str, value: bytes = VALUE.encode(), mode: int = 0o600) -> None:
    folder = home / "secrets" / "broker"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(value)
    (folder / name).chmod(mode)


def states(ran: Any) -> dict[str, str]:
    return {one["name"]: one["state"] for one in ran.json["secrets"]}


async def test_without_a_broker_the_files_are_looked_at(nanoclaw: Any, home: Path) -> None:
    """Each that would stop its start is named with what to do; what they hold is not shown, nor is it invented."""
    assert (await nanoclaw("secrets", "check")).code == 0
    put(home, "good_token")
    put(home, "Bad-Name.bak")
    ran = await nanoclaw("secrets", "check", "--json")
    assert (ran.code, states(ran)) == (0, {"Bad-Name.bak": "ignored", "good_token": "readable"})
    assert ran.json["broker_asked"] is False
    put(home, "open_token", mode=0o644)
    put(home, "short_token", b"sh0rt")
    put(home, "torn_token", b"\xff\xfe" + VALUE.encode())
    (home / "secrets" / "broker" / "folder_token").mkdir()
    ran = await nanoclaw("secrets", "check", "--json")
    assert ran.code == 1
    assert states(ran) == {
        "Bad-Name.bak": "ignored", "good_token": "readable", "open_token": "exposed", "short_token": "too short",
        "torn_token": "unreadable", "folder_token": "unreadable",
    }  # fmt: skip
    shown = await nanoclaw("secrets", "check")
    assert "0600" in shown.out
    for text in (shown.out, shown.err, ran.out, ran.err):
        assert VALUE not in text
        assert "sh0rt" not in text


@pytest.mark.timeout(60)
async def test_a_running_broker_says_what_its_providers_need(nanoclaw: Any, home: Path) -> None:
    """Missing wholly or in part is exit code 1; a file it has not read yet is told from one that is not there."""
    (home / "config").mkdir()
    (home / "config" / "providers.toml").write_text(
        '[http.write."api.example.com"]\nbearer_secret = "example_token"\n'
        '[sql.databases.shop]\nurl = "postgresql://me@127.0.0.1/shop"\n'
    )
    put(home, "llm_api_key")
    put(home, "nobodys_token")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCLAW_", "OTEL_"))}
    supervisor = Supervisor(home, [sys.executable], environ)
    supervisor.services = [one for one in supervisor.services if one.name in ("governance", "broker")]
    async with supervisor.running():
        ran = await nanoclaw("secrets", "check", "--json")
        found = states(ran)
        assert ran.code == 1
        assert ran.json["broker_asked"] is True
        assert found.items() >= {
            "example_token": "missing", "github_token": "missing", "llm_api_key": "held", "nobodys_token": "unused",
            "sql_shop_password": "absent",
        }.items()  # fmt: skip
        (example,) = (one for one in ran.json["secrets"] if one["name"] == "example_token")
        assert example["used_by"] == ["http"]
        put(home, "example_token")
        put(home, "github_token")
        ran = await nanoclaw("secrets", "check", "--json")
        assert (ran.code, states(ran)["github_token"]) == (1, "not read")
        signal_process(*read_state(home)["broker"], signal.SIGHUP)
        ran = await nanoclaw("secrets", "check", "--json")
        assert (ran.code, states(ran)["github_token"], states(ran)["example_token"]) == (0, "held", "held"), ran.out
        put(home, "github_token", mode=0o644)
        ran = await nanoclaw("secrets", "check")
        assert (ran.code, VALUE in ran.out) == (1, False)
        (home / "secrets" / "broker" / "github_token").chmod(0o600)
        assert (await nanoclaw("--as", "nobody", "secrets", "check")).code == 1
