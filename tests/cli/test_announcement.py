"""The demo's write: what it puts into a home and takes away again, and that nothing wrong about it stays unsaid."""

import os
import time
import tomllib
from pathlib import Path

import httpx
import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli.announcement import Announcement, leaks
from nanoclaw_cli.supervisor import Supervisor
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Role
from nanoclaw_rpc import Credentials

EXECUTED = pb.CallRecord(
    state=pb.CALL_STATE_EXECUTED,
    votes=[pb.Vote(principal="operator:founder"), pb.Vote(principal="operator:demo-approver")],
)


@pytest.fixture
def announcement(tmp_path: Path) -> Announcement:
    """Over a home of the test's own."""
    (tmp_path / "run").mkdir()
    return Announcement(tmp_path, tmp_path / "secrets")


def _token(home: Path) -> str:
    return (home / "secrets" / "broker" / "nanoclaw_demo_token").read_text().strip()


def _post(announcement: Announcement, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.post(announcement.url, headers=headers, json={"title": "x"}, trust_env=False).status_code


def test_a_write_that_went_as_it_must_has_no_findings(announcement: Announcement, tmp_path: Path) -> None:
    """Sent once with the token, EXECUTED, two operators' votes."""
    with announcement.prepared():
        assert _post(announcement, _token(tmp_path)) == 201
    assert announcement.findings(EXECUTED) == []


def test_what_keeps_it_from_being_prepared_is_what_is_raised(announcement: Announcement, tmp_path: Path) -> None:
    """A full disk, say: not that the second operator, who was never made, can't be taken away."""
    (tmp_path / "secrets" / "operators" / "demo-approver.token").mkdir(parents=True)  # in the way of the token
    with pytest.raises(IsADirectoryError), announcement.prepared():
        raise AssertionError("it must not begin")


def test_a_write_that_was_sent_twice_is_said(announcement: Announcement, tmp_path: Path) -> None:
    """The one thing that the broker promises never to do."""
    with announcement.prepared():
        assert [_post(announcement, _token(tmp_path)) for _ in range(2)] == [201, 201]
    assert announcement.findings(EXECUTED) == ["2 requests arrived outside, 2 with the token, not one"]


def test_a_write_without_the_token_is_refused_and_said(announcement: Announcement) -> None:
    """So the check of the token is one."""
    with announcement.prepared():
        assert _post(announcement, "guessed") == 401
    assert announcement.findings(EXECUTED) == ["1 requests arrived outside, 0 with the token, not one"]


def test_what_the_ledger_lacks_is_said(announcement: Announcement, tmp_path: Path) -> None:
    """No call at all; another end; one vote."""
    with announcement.prepared():
        _post(announcement, _token(tmp_path))
    assert announcement.findings(None) == ["nobody asked for the write"]
    unknown = pb.CallRecord(state=pb.CALL_STATE_UNKNOWN, code="NO_REPLY", votes=EXECUTED.votes[:1])
    assert announcement.findings(unknown) == [
        "the ledger says UNKNOWN (NO_REPLY) of the write, not EXECUTED",
        "the write has the votes of operator:founder",
    ]


@pytest.mark.parametrize("folder", ["groups/developer/work", "ipc/developer/responses", "attempts/a1/ipc"])
def test_a_token_that_lies_where_an_agent_reads_is_said(
    announcement: Announcement, tmp_path: Path, folder: str
) -> None:
    """In the group's folder, its mailbox, or an attempt's."""
    (tmp_path / folder).mkdir(parents=True)
    with announcement.prepared():
        token = _token(tmp_path)
        _post(announcement, token)
        (tmp_path / folder / "answer.json").write_text(f'{{"echo": "{token}"}}')
    assert announcement.findings(EXECUTED) == [f"the token lies in {tmp_path / folder / 'answer.json'}"]


def test_the_search_opens_nothing_that_an_agent_laid_out_as_a_trap(tmp_path: Path) -> None:
    """A pipe would hold us for ever, a link leads out of the folder."""
    folder, outside = tmp_path / "group", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("a-token-of-the-broker")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(outside)
    assert leaks((folder,), "a-token-of-the-broker", time.time()) == []
    (folder / "file").write_text("so: a-token-of-the-broker")
    assert leaks((folder,), "a-token-of-the-broker", time.time()) == [f"the token lies in {folder / 'file'}"]
    assert leaks((folder,), "a-token-of-the-broker", time.time() + 60) == [], "what is older can't hold this run's"


def test_it_leaves_a_home_as_it_was_also_after_one_that_was_killed(announcement: Announcement, tmp_path: Path) -> None:
    """What a killed demo left is replaced, and goes; the operator's own providers and operators stay."""
    credentials = Credentials.open(tmp_path / "secrets")
    credentials.add_operator("alice", Role.ADMIN)
    killed = credentials.add_operator("demo-approver", Role.APPROVER).read_text()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "providers.toml").write_text("# mine\n")
    with announcement.prepared():
        environ = announcement.environ({"NANOCLAW_BROKER_PROVIDERS": "/etc/more.toml"})
        mine, own = environ["NANOCLAW_BROKER_PROVIDERS"].split(",")
        tables = tomllib.loads(Path(own).read_text())
        host = announcement.url.removeprefix("http://").removesuffix("/announcements")
        assert tables == {"http": {"write": {host: {"bearer_secret": "nanoclaw_demo_token"}}}}
        assert mine == "/etc/more.toml"
        assert (tmp_path / "secrets" / "operators" / "demo-approver.token").read_text() != killed
    assert (tmp_path / "config" / "providers.toml").read_text() == "# mine\n"
    assert not list((tmp_path / "run").iterdir())
    assert not list((tmp_path / "secrets" / "broker").iterdir())
    left = sorted(path.name for path in (tmp_path / "secrets" / "operators").iterdir())
    assert left == ["alice.token", "founder.token"]
    assert Credentials.open(tmp_path / "secrets").find("operator:demo-approver") is None


async def test_a_demo_over_a_home_that_is_in_use_touches_nothing(announcement: Announcement, tmp_path: Path) -> None:
    """It is refused before it prepares anything, so the one that runs keeps its token and its second operator."""
    async with Supervisor(tmp_path, [], {}, services=(), prepare=announcement.prepared).running():
        token = _token(tmp_path)
        second = Announcement(tmp_path, tmp_path / "secrets")
        with pytest.raises(NanoclawError) as caught:
            async with Supervisor(tmp_path, [], {}, services=(), prepare=second.prepared).running():
                raise AssertionError("it must not start")
        assert caught.value.reason == "ALREADY_RUNNING"
        assert _token(tmp_path) == token
        assert Credentials.open(tmp_path / "secrets").find("operator:demo-approver") is not None
    assert not (tmp_path / "secrets" / "broker" / "nanoclaw_demo_token").exists()
