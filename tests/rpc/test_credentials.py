"""Tokens: made once, private, kept as hashes only, revocable, and closed when their file is broken."""

import fcntl
import hashlib
import json
import stat
import subprocess
import sys
import threading
import time

import pytest

from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Caller, Role
from nanoclaw_rpc import Credentials
from nanoclaw_rpc.credentials import SERVICES


@pytest.fixture
def secrets(tmp_path):
    return tmp_path / "secrets"


def token(credentials, principal):
    return credentials.token_file(principal).read_text().strip()


def test_the_first_start_makes_the_founder_and_the_services(secrets):
    """One admin and five services, each with a token of its own."""
    credentials = Credentials.open(secrets)
    principals = ["operator:founder", *(f"service:{name}" for name in SERVICES)]
    tokens = [token(credentials, one) for one in principals]
    assert len(set(tokens)) == 6
    assert credentials.identify(tokens[0]) == Caller("operator:founder", Role.ADMIN)
    assert [credentials.identify(one) for one in tokens[1:]] == [Caller(one) for one in principals[1:]]
    assert sorted(SERVICES) == ["broker", "dispatcher", "gateway", "governance", "ops"]


def test_only_hashes_are_kept_and_only_the_owner_can_read(secrets):
    """Files 0600, folders 0700, and no token in credentials.json."""
    credentials = Credentials.open(secrets)
    text = (secrets / "credentials.json").read_text()
    for path in [secrets / "credentials.json", *secrets.glob("*/*.token")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in [secrets, secrets / "operators", secrets / "services"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    founder = token(credentials, "operator:founder")
    assert founder not in text
    assert hashlib.sha256(founder.encode()).hexdigest() in text
    assert set(json.loads(text)["principals"][0]) == {"principal", "role", "sha256"}


def test_a_second_start_changes_nothing(secrets):
    """Tokens outlive restarts."""
    Credentials.open(secrets)
    before = {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()}
    Credentials.open(secrets)
    assert {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()} == before


def test_services_that_start_together_agree_on_the_tokens(secrets):
    """Four processes open an empty folder at once; afterwards every token file is the one whose hash is kept."""
    code = "import sys, pathlib; from nanoclaw_rpc import Credentials; Credentials.open(pathlib.Path(sys.argv[1]))"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(secrets)]) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0] * 4
    credentials = Credentials(secrets)
    for principal in ["operator:founder", *(f"service:{name}" for name in SERVICES)]:
        assert credentials.identify(token(credentials, principal)).principal == principal


def test_a_change_waits_for_the_change_before_it(secrets):
    """Two processes that change the list at once would lose one of the changes."""
    credentials = Credentials.open(secrets)
    with (secrets / ".credentials.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        adding = threading.Thread(target=credentials.add_operator, args=("ana", Role.ADMIN))
        adding.start()
        adding.join(0.2)
        assert adding.is_alive()
        assert not credentials.token_file("operator:ana").exists()
    adding.join(10)
    assert credentials.identify(token(credentials, "operator:ana")) is not None


def test_a_service_without_its_token_file_gets_a_new_token(secrets):
    """It can't work without; the lost token is worth nothing from then on."""
    credentials = Credentials.open(secrets)
    lost = token(credentials, "service:broker")
    credentials.token_file("service:broker").unlink()
    again = Credentials.open(secrets)
    assert again.identify(token(again, "service:broker")) == Caller("service:broker")
    assert again.identify(lost) is None


def test_a_service_needs_no_other_token_file_than_its_own(secrets):
    """In a container the folder holds its own alone and can't be written: nothing is made, or missed."""
    credentials = Credentials.open(secrets)
    for name in SERVICES:
        if name != "broker":
            credentials.token_file(f"service:{name}").unlink()
    before = (secrets / "credentials.json").read_bytes()
    again = Credentials.open(secrets, own="service:broker")
    assert (secrets / "credentials.json").read_bytes() == before
    assert [path.name for path in (secrets / "services").iterdir()] == ["broker.token"]
    again.token_file("service:broker").unlink()
    assert Credentials.open(secrets, own="service:broker").token_file("service:broker").exists()


def test_a_founder_may_take_the_token_file_away(secrets):
    """It is not made anew: the token in the founder's head stays the only one."""
    credentials = Credentials.open(secrets)
    kept = token(credentials, "operator:founder")
    credentials.token_file("operator:founder").unlink()
    again = Credentials.open(secrets)
    assert not again.token_file("operator:founder").exists()
    assert again.identify(kept) == Caller("operator:founder", Role.ADMIN)


def test_a_token_written_before_a_crash_is_taken_up(secrets):
    """Dying between token file and credentials.json leaves a start that repairs itself."""
    credentials = Credentials.open(secrets)
    written = token(credentials, "service:ops")
    (secrets / "credentials.json").unlink()
    assert Credentials.open(secrets).identify(written) == Caller("service:ops")


def test_an_operator_can_be_added_once(secrets):
    """A taken name is OPERATOR_EXISTS and changes nothing."""
    credentials = Credentials.open(secrets)
    path = credentials.add_operator("ana", Role.APPROVER)
    assert credentials.identify(path.read_text().strip()) == Caller("operator:ana", Role.APPROVER)
    before = path.read_bytes()
    with pytest.raises(NanoclawError) as caught:
        credentials.add_operator("ana", Role.ADMIN)
    assert caught.value.reason == "OPERATOR_EXISTS"
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", "Ana", "a b", ".x", "x" * 65, "a:b"])
def test_an_operator_s_name_is_no_path(secrets, name):
    """Names become files."""
    with pytest.raises(NanoclawError) as caught:
        Credentials.open(secrets).add_operator(name, Role.ADMIN)
    assert caught.value.reason == "INVALID_FIELD"


def test_an_operator_needs_a_role(secrets):
    """An operator who may do nothing is a mistake."""
    with pytest.raises(NanoclawError):
        Credentials.open(secrets).add_operator("ana", Role.NONE)


def test_a_removed_operator_is_forgotten(secrets):
    """Another process's removal shows within 50 ms; waited for here without a clock of our own."""
    credentials, other = Credentials.open(secrets), Credentials(secrets)
    path = credentials.add_operator("ana", Role.ADMIN)
    ana = path.read_text().strip()
    assert credentials.identify(ana) is not None
    other.remove("operator:ana")
    assert not path.exists()
    end = time.monotonic() + 2
    while credentials.identify(ana) is not None:
        assert time.monotonic() < end
    with pytest.raises(NanoclawError) as caught:
        other.remove("operator:ana")
    assert caught.value.reason == "PRINCIPAL_NOT_FOUND"


def test_two_tokens_of_one_principal_both_work(secrets):
    """A token can be changed without a gap."""
    credentials = Credentials.open(secrets)
    path = secrets / "credentials.json"
    document = json.loads(path.read_text())
    digest = hashlib.sha256(b"second").hexdigest()
    document["principals"].append({"principal": "operator:founder", "role": "admin", "sha256": digest})
    path.write_text(json.dumps(document))
    assert credentials.identify("second") == Caller("operator:founder", Role.ADMIN)
    assert credentials.identify(token(credentials, "operator:founder")) == Caller("operator:founder", Role.ADMIN)


GOOD = "0" * 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"principals": {}}',
        '{"principals": ["operator:founder"]}',
        json.dumps({"principals": [{"principal": "group:main", "role": "", "sha256": GOOD}]}),
        json.dumps({"principals": [{"principal": "operator:x", "role": "god", "sha256": GOOD}]}),
        json.dumps({"principals": [{"principal": "operator:x", "role": "", "sha256": GOOD}]}),
        json.dumps({"principals": [{"principal": "service:broker", "role": "admin", "sha256": GOOD}]}),
        json.dumps({"principals": [{"principal": "service:unheard", "role": "", "sha256": GOOD}]}),
        json.dumps({"principals": [{"principal": "operator:x", "role": "admin", "sha256": "plain"}]}),
    ],
)
def test_a_broken_file_lets_nobody_in_and_stops_a_start(secrets, text):
    """Fail closed: a revocation that was written badly must not leave the old list in force."""
    credentials = Credentials.open(secrets)
    founder = token(credentials, "operator:founder")
    assert credentials.identify(founder) is not None
    (secrets / "credentials.json").write_text(text)
    end = time.monotonic() + 2
    with pytest.raises(NanoclawError) as caught:
        while time.monotonic() < end:
            credentials.identify(founder)
    assert caught.value.reason == "CREDENTIALS_UNREADABLE"
    with pytest.raises(NanoclawError) as caught:
        Credentials.open(secrets)
    assert caught.value.reason == "CREDENTIALS_MALFORMED"


def test_a_repaired_file_lets_them_in_again(secrets):
    """No restart needed."""
    credentials = Credentials.open(secrets)
    founder = token(credentials, "operator:founder")
    path = secrets / "credentials.json"
    good = path.read_text()
    path.unlink()
    with pytest.raises(NanoclawError):
        credentials.identify(founder)
    path.write_text(good)
    assert credentials.identify(founder) == Caller("operator:founder", Role.ADMIN)
