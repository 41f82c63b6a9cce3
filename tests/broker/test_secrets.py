"""What the broker holds stays with the broker: planted secrets are looked for in everything that the system wrote."""

import base64
import json
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from planted import ECHOES

from nanoclaw_broker import answers
from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.ledger import Kind
from nanoclaw_broker.providers import ActionFailed, Result
from nanoclaw_broker.providers.mcp.cpu_limit import within
from nanoclaw_broker.secrets import SCRUBBED, Secrets, encodings, open_key
from nanoclaw_core.errors import NanoclawError
from nanoclaw_telemetry import setup

PLANTED = 'pl4nted/secret+with "quotes" ünd more=='


def plant(home: Path, value: str = PLANTED, name: str = "locked_token", mode: int = 0o600) -> Path:
    folder = home / "secrets" / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(value + "\n")
    path.chmod(mode)
    return path


def forms(value: str) -> list[str]:
    raw = value.encode()
    return [
        value,
        quote(value, safe=""),
        raw.hex(),
        base64.b64encode(raw).decode(),
        base64.b64encode(b"user:" + raw).decode(),
        base64.urlsafe_b64encode(b"xy" + raw + b"z").decode(),
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
    ]


def written(home: Path) -> bytes:
    """Everything that lies under the home but the secrets themselves."""
    found = b""
    for path in home.rglob("*"):
        if path.is_file() and "secrets" not in path.relative_to(home).parts:
            found += path.read_bytes()
    return found


@pytest.mark.parametrize("kind", [Kind.READ, Kind.MUTATING])
def test_an_answer_that_is_far_too_large_is_not_scrubbed_first(home: Path, kind: Kind) -> None:
    """It would keep the broker busy for seconds, and is not passed on anyway."""
    for number in range(20):
        plant(home, f"{number}-" + base64.b64encode(os.urandom(40)).decode(), f"secret_{number}")
    secrets = Secrets(home / "secrets" / "broker")
    large = Result({"text": base64.b64encode(os.urandom(12_000_000)).decode()}, cost_micros=3)
    ended = within(2.0, lambda: answers.executed("c", kind, large, {}, secrets))
    assert (ended.cost_micros, ended.response.data_json) == (3, "")
    assert "ANSWER_TOO_LARGE" in (ended.response.code, ended.response.facts["left_out"])


async def test_a_planted_secret_appears_nowhere(
    start: Any, counter: Any, home: Path, capfd: pytest.CaptureFixture[str], collector: Any
) -> None:
    """A provider that leaks its secret every way it can: answer, summary, failure, crash; in any encoding."""
    plant(home)
    key = open_key(home / "secrets" / "broker.key").hex()
    token = (home / "secrets" / "services" / "broker.token").read_text().strip()
    leaked = [form for secret in (PLANTED, key, token) for form in forms(secret)]
    seen = ""
    telemetry = setup("broker", collector.environ)
    try:
        async with start(telemetry, rate_l1=1000) as broker:
            await broker.grant("locked", 2)
            for leak in leaked:
                for then in (
                    lambda _, leak=leak: Result({"in": [leak], leak: 1}, f"summary {leak}"),
                    lambda _, leak=leak: (_ for _ in ()).throw(ActionFailed("NO", leak, next_steps=(leak,), fact=leak)),
                    lambda _, leak=leak: (_ for _ in ()).throw(RuntimeError(leak)),
                ):
                    counter.look.then = then
                    answer = await broker.call("locked", "look", {"text": "x"})
                    record = await broker.record(answer.call_id)
                    seen += f"{answer} {record}" + answer.data_json + "".join(answer.facts.values())
    finally:
        structlog.reset_defaults()
    shown = capfd.readouterr()
    spans = str(await collector.wait_for(lambda spans: any(span.name == "broker.call" for span in spans)))
    everything = written(home).decode(errors="replace") + shown.out + shown.err + spans + seen
    core = PLANTED[:20]
    for secret in (core, key, token):
        raw = secret.encode()
        for form in (secret, quote(secret, safe=""), raw.hex(), base64.b64encode(raw).decode()[:-4]):
            assert form not in everything, form
    assert SCRUBBED in everything


@given(
    st.text(min_size=8, max_size=40).map(str.strip).filter(lambda text: len(text) >= 8),
    st.binary(max_size=5),
    st.binary(max_size=5),
)
def test_a_secret_is_found_inside_base64_at_any_offset(secret: str, before: bytes, after: bytes) -> None:
    """Whatever stands before and after it, a part that only the secret decides is known."""
    try:
        raw = secret.encode()
    except UnicodeEncodeError:
        return
    known = encodings(secret)
    assert secret in known
    if len(raw) >= 16:
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(before + raw + after).decode()
            assert any(form in text for form in known)


@given(st.integers(0, 60), st.sampled_from(sorted(ECHOES)))
def test_a_secret_that_was_cut_in_two_is_found_by_its_beginning(most: int, how: str) -> None:
    """What is left of it at a cut tells nothing, however another side wrote it."""
    with TemporaryDirectory() as folder:
        secrets = Secrets(Path(folder), also=("own+token/0123456789==",))
    said = ECHOES[how]("own+token/0123456789==")
    shown = secrets.scrub(excerpt("-" * 10 + said + "-" * 10, most))
    assert not any(form[:4] in shown for form in encodings("own+token/0123456789=="))


def test_scrubbing_leaves_other_text_alone(tmp_path: Path) -> None:
    """Only what is held is replaced; without secrets nothing is."""
    folder = tmp_path / "secrets" / "broker"
    assert Secrets(folder).scrub("anything") == "anything"
    plant(tmp_path, "hunter2hunter2")
    secrets = Secrets(folder, also=("own-token-0123",))
    assert secrets.scrub("a hunter2hunter2 b own-token-0123 c hunter2") == f"a {SCRUBBED} b {SCRUBBED} c hunter2"
    assert secrets.has("locked_token")
    assert "hunter2" not in repr(secrets.get("locked_token"))
    with pytest.raises(NanoclawError):
        secrets.get("other")


async def test_a_secret_that_is_a_number_or_spans_values_is_not_passed_on(start: Any, counter: Any, home: Path) -> None:
    """What only shows in the encoded answer is found there; what would no longer be JSON then is left out whole."""
    plant(home, "12345678901234")
    plant(home, 'first","second', name="other_token")
    async with start() as broker:
        await broker.grant("locked", 2)
        for data, passed_on in (({"n": 12345678901234}, SCRUBBED), (["first", "second"], [SCRUBBED])):
            counter.look.then = lambda _, data=data: Result(data)
            answer = await broker.call("locked", "look")
            assert json.loads(answer.data_json) == passed_on


@pytest.mark.parametrize(
    ("value", "mode", "reason"), [("short", 0o600, "SECRET_TOO_SHORT"), (PLANTED, 0o644, "SECRET_EXPOSED")]
)
async def test_a_secret_that_cannot_be_kept_stops_the_start(
    start: Any, home: Path, value: str, mode: int, reason: str
) -> None:
    """Too short to be scrubbed, or readable by others; the message shows its file, not its value."""
    plant(home, value, mode=mode)
    with pytest.raises(NanoclawError) as raised:
        async with start():
            pass
    assert raised.value.reason == reason
    assert value not in str(raised.value)


async def test_secrets_are_read_anew_on_sighup(start: Any, home: Path) -> None:
    """Rotation without a restart; what can't be accepted leaves the old ones in force."""
    async with start() as broker:
        await broker.grant("locked", 2)
        assert (await broker.call("locked", "look")).code == "SECRETS_MISSING"
        path = plant(home)
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await broker.call("locked", "look")).code == "OK"
        path.write_text("short")
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await broker.call("locked", "look")).code == "OK"
        path.unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await broker.call("locked", "look")).code == "SECRETS_MISSING"


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """32 random bytes, mode 0600, the same ever after."""
    path = tmp_path / "secrets" / "broker.key"
    key = open_key(path)
    assert (len(key), path.stat().st_mode & 0o777) == (32, 0o600)
    assert open_key(path) == key
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("zz", 0o600), ("ab" * 31, 0o600), ("ab" * 32, 0o640)])
def test_a_key_that_is_not_ours_stops_the_start(tmp_path: Path, text: str, mode: int) -> None:
    """A new key would silently make every recorded request look like another one."""
    path = tmp_path / "broker.key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(NanoclawError) as raised:
        open_key(path)
    assert raised.value.reason == "BROKER_KEY_INVALID"


async def test_parameters_are_in_the_ledger_as_a_keyed_hash_only(broker: Any) -> None:
    """Neither the log, nor the database, nor the write-ahead log holds a value that was sent."""
    await broker.grant("count", 3)
    answer = await broker.call("count", "look", {"text": "only-in-params-77"}, idempotency_key="k")
    assert answer.code == "OK"
    other = await broker.call("count", "look", {"text": "another"})
    hashes = {(await broker.record(one.call_id)).params_hmac for one in (answer, other)}
    assert len(hashes) == 2
    left = written(broker.home).replace(answer.data_json.encode(), b"")  # the answer echoes it, and answers are kept
    assert b"only-in-params-77" not in left
