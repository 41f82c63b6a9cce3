"""The process: settings, traces, audit lines; and hostile parameters never break the reader."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.params import keyed_hash, parse
from nanoclaw_broker.policy import Level
from nanoclaw_broker.settings import Settings, read
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import on_behalf
from nanoclaw_telemetry import TraceContext, setup
from nanoclaw_telemetry.context import under


def test_settings_are_strict() -> None:
    """An unknown name, a wrong type or a limit of nothing stops the start."""
    chosen = read(
        {"NANOCLAW_HOME": "/srv/x", "NANOCLAW_BROKER_RATE_L2": "3", "NANOCLAW_BROKER_LISTEN": "unix:/a, 127.0.0.1:1"}
    )
    assert (chosen.home, chosen.limits.rate[Level.L2], chosen.addresses) == (
        Path("/srv/x"),
        3,
        ["unix:/a", "127.0.0.1:1"],
    )
    assert Settings(home=Path("/srv/x")).addresses == ["unix:/srv/x/run/broker.sock"]
    for wrong in ({"RATE": "1"}, {"RATE_L1": "many"}, {"RATE_L1": "0"}, {"PENDING": "-1"}, {"CALL_SECONDS": "0"}):
        with pytest.raises(NanoclawError):
            read({f"NANOCLAW_BROKER_{name}": value for name, value in wrong.items()})


def test_a_process_that_cannot_start_says_why_and_exits_1(home: Path) -> None:
    """One line on stderr, no traceback."""
    environ = {**os.environ, "NANOCLAW_HOME": str(home), "NANOCLAW_BROKER_HTTP_ALLOW": "*"}
    ended = subprocess.run(
        [sys.executable, "-m", "nanoclaw_broker"], env=environ, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1
    assert "INVALID_SETTING" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_call_is_a_span_of_its_callers_trace(start: Any, collector: Any) -> None:
    """broker.call under the server span, with provider, action, level, decision and code; never parameters."""
    telemetry = setup("broker", collector.environ)
    trace = TraceContext.new()
    async with start(telemetry) as broker:
        await broker.grant("count", 3)
        with under(trace):
            answer = await broker.call("count", "add", {"text": "planted-value"})
            denied = await broker.call("count", "launch")
        assert (await broker.record(answer.call_id)).trace_id == trace.trace_id
    spans = [
        span
        for span in await collector.wait_for(lambda all: sum(s.name == "broker.call" for s in all) == 2)
        if span.name == "broker.call"
    ]
    first, second = sorted(spans, key=lambda span: span.start_ns)
    assert first.trace_id == second.trace_id == trace.trace_id
    servers = {span.span_id for span in collector.spans if span.name.endswith("BrokerService/Call")}
    assert {first.parent_id, second.parent_id} <= servers
    assert first.attributes == {
        "nanoclaw.provider": "count",
        "nanoclaw.action": "add",
        "nanoclaw.level": "L2",
        "nanoclaw.decision": "allow",
        "nanoclaw.check": "claim",
        "nanoclaw.reason": "OK",
        "nanoclaw.code": "OK",
        "nanoclaw.principal": "group:developer",
        "nanoclaw.call_id": answer.call_id,
    }
    refused = {name: second.attributes[f"nanoclaw.{name}"] for name in ("decision", "reason", "check", "code")}
    assert refused == {"decision": "deny", "reason": denied.code, "check": "level", "code": denied.code}
    assert second.error == denied.code
    assert "planted-value" not in str(collector.spans)


async def test_refusals_are_warnings_and_replays_are_quiet(start: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """WARN for a denial, INFO for a call, DEBUG for an idempotent hit; lines keep their own level and code."""
    telemetry = setup("broker", {"NANOCLAW_LOG_LEVEL": "DEBUG"})
    try:
        async with start(telemetry) as broker:
            await broker.grant("count", 3)
            await broker.call("count", "launch", request_id="denied")
            await broker.call("count", "look", request_id="done")
            await broker.call("count", "look", request_id="done")
    finally:
        structlog.reset_defaults()
    lines = [json.loads(text) for text in capfd.readouterr().err.splitlines() if text.startswith("{")]
    (refused,) = [one for one in lines if one["event"] == "call_denied"]
    assert (refused["level"], refused["answer"], refused["group"]) == ("warning", "LEVEL_TOO_LOW", "developer")
    rpcs = [one for one in lines if one["event"] == "rpc" and one["rpc"].endswith("/Call")]
    assert [(one["level"], one["code"], one["answer"]) for one in rpcs] == [
        ("info", "OK", "LEVEL_TOO_LOW"),
        ("info", "OK", "OK"),
        ("debug", "OK", "OK"),
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4))
def test_any_json_object_is_read_and_hashed_alike_however_it_is_written(value: dict[str, Any]) -> None:
    """White space, escapes and the order of members do not make another effect."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    plain = parse(json.dumps(value))
    other = parse(json.dumps(dict(reversed(value.items())), indent=3, ensure_ascii=False))
    assert plain == other == value
    assert keyed_hash(b"k", "p", "a", plain) == keyed_hash(b"k", "p", "a", other)
    assert keyed_hash(b"k", "p", "a", plain) != keyed_hash(b"k", "p", "b", plain)
    assert keyed_hash(b"k", "p", "a", plain) != keyed_hash(b"l", "p", "a", plain)


@given(st.text(max_size=60) | st.text(alphabet='{}[]",:0123456789eE+-.\\untrufalse \n', max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    """A dictionary that can be hashed, or INVALID_FIELD; nothing else."""
    reasons = set()
    try:
        keyed_hash(b"k", "p", "a", parse(text))
    except NanoclawError as error:
        reasons.add(error.reason)
    assert reasons <= {"INVALID_FIELD"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"a":' + "[" * 64 + "]" * 64 + "}",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e400}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "' + "x" * (1024 * 1024) + '"}',
        '{"b": {"a": 1, "a": 1}}',
        "\ufeff{}",
        "{} x",
        "null",
    ],
)
def test_hostile_parameters_are_refused(text: str) -> None:
    """Deep, doubled, endless, not numbers, more than one value."""
    with pytest.raises(NanoclawError) as raised:
        keyed_hash(b"k", "p", "a", parse(text))
    assert raised.value.reason == "INVALID_FIELD"


def test_nesting_to_the_limit_is_accepted() -> None:
    """64 levels, brackets inside strings not counted."""
    assert parse('{"a":' + "[" * 63 + "]" * 63 + "}")
    assert parse(json.dumps({"a": "[" * 1000}))


async def test_a_group_without_attestation_header_is_not_a_group(broker: Any) -> None:
    """The gateway itself is a service and has no grants."""
    with pytest.raises(NanoclawError) as raised:
        await broker.gateway.Call(pb.CallRequest(request_id="r", provider="count", action="look"))
    assert raised.value.reason == "NOT_PERMITTED"
    with pytest.raises(NanoclawError):
        await broker.gateway.Call(
            pb.CallRequest(request_id="r", provider="count", action="look"), metadata=on_behalf("Not A Group")
        )
