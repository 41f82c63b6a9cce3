"""What we write is, byte for byte, what agents that exist already write."""

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_agent import wire
from nanoclaw_agent.client import Client
from nanoclaw_agent.environment import Environment

SAMPLES = Path(__file__).parent / "wire"
SECRET = (SAMPLES / "ipc_secret").read_text().strip()


def raw_signature(text: str, secret: str) -> str:
    """The signature as a host computes it: over the raw text, without white space outside strings and without `sig`."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[^\s"]+', text)
    compact = re.sub(r',"sig":"[0-9a-f]{64}"', "", "".join(tokens))
    return hmac.new(secret.encode(), compact.encode(), hashlib.sha256).hexdigest()


def test_the_sample_of_an_existing_agent_verifies_under_our_reading_of_the_signature() -> None:
    """The oracle of the tests below is the real agent's file, not our own writer."""
    text = (SAMPLES / "ext_call.json").read_text(encoding="utf-8")
    assert raw_signature(text, SECRET) == json.loads(text)["sig"]


@pytest.mark.parametrize("name", ["gov_create", "gov_transition", "ext_call"])
def test_a_sample_read_and_written_again_is_the_same_file(name: str) -> None:
    """Indentation, escapes, order and the end of the file are those of the samples; one number is spelt otherwise."""
    text = (SAMPLES / f"{name}.json").read_text(encoding="utf-8")
    written = wire.encode(json.loads(text)).decode()
    assert written.replace("1e-07", "1e-7") == text


def lines_of_sample(name: str) -> list[str]:
    return (SAMPLES / f"{name}.json").read_text(encoding="utf-8").splitlines()


def without_ours(text: str) -> list[str]:
    """A written file without the member that gov_* requests have from us."""
    return [line for line in text.splitlines() if not line.startswith('  "request_id"')]


def test_gov_create_and_gov_transition_are_written_as_the_samples_are(ipc: Path, host: Any) -> None:
    """Same members in the same order; only request_id is added."""
    client = Client(Environment(ipc_dir=str(ipc)))
    client.create_task(
        "Fix login",
        "BUG",
        description="line1\nline2",
        priority="P1",
        assigned_group="developer",
        gate="Security",
    )
    client.transition("t1", "REVIEW", "done: 50% faster", 3)
    for text, name in zip(host.texts, ("gov_create", "gov_transition"), strict=True):
        ours, theirs = without_ours(text), lines_of_sample(name)
        assert ours[:-2] == theirs[:-2]
        assert re.fullmatch(r'  "timestamp": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"', ours[-2])


def test_ext_call_has_the_members_of_the_sample_in_its_order_and_a_signature_that_verifies(
    ipc: Path, host: Any
) -> None:
    """A host that knows only the raw text accepts what we sign."""
    sample = json.loads((SAMPLES / "ext_call.json").read_text(encoding="utf-8"))
    client = Client(Environment(ipc_dir=str(ipc)))
    client.call("github", "create_issue", sample["params"], task_id="t1", idempotency_key="k-1")
    assert list(host.requests[0]) == list(sample)
    assert re.fullmatch(r"ext-\d{13}-[0-9a-z]{6}", host.requests[0]["request_id"])
    assert raw_signature(host.texts[0], SECRET) == host.requests[0]["sig"]


def test_with_a_trace_the_signature_still_verifies_and_sig_is_last(ipc: Path, host: Any) -> None:
    """Our extra members are signed like any other."""
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    Client(Environment(ipc_dir=str(ipc), traceparent=parent)).call("json", "transform", {})
    request = host.requests[0]
    assert list(request)[-4:] == ["traceparent", "span", "timestamp", "sig"]
    assert raw_signature(host.texts[0], SECRET) == request["sig"]
    _, trace_id, span_id, _ = request["traceparent"].split("-")
    assert trace_id == "ab" * 16
    assert span_id != "cd" * 8
    assert request["span"]["name"] == "agent.ext_call"
    assert request["span"]["start"] <= request["span"]["end"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(params=st.dictionaries(st.text().filter(lambda name: name != "sig"), json_values, max_size=4))
def test_what_is_signed_equals_the_file_without_white_space(params: dict[str, Any]) -> None:
    """For any parameters that JSON can hold, also ones full of quotes, line breaks and spaces."""
    request: dict[str, Any] = {"type": "ext_call", "request_id": "ext-1", "params": params}
    try:
        request["sig"] = wire.sign(request, SECRET)
    except ValueError:
        with pytest.raises(ValueError):
            wire.encode(request)
        return
    assert raw_signature(wire.encode(request).decode(), SECRET) == request["sig"]


def test_a_request_file_appears_at_once_and_leaves_no_temporary_behind(tmp_path: Path) -> None:
    """A host that lists the folder never sees half of a file."""
    wire.put(str(tmp_path), "a.json", b"{}")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_times_are_written_with_the_digits_asked_for() -> None:
    """Three digits and Z on requests, six on spans."""
    moment = 1_795_231_475_296_123_456
    assert wire.timestamp(moment) == "2026-11-21T03:24:35.296Z"
    assert wire.timestamp(moment, 6) == "2026-11-21T03:24:35.296123Z"
