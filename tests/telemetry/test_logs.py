"""Logs are JSON lines with trace ids, and no secret gets into one."""

import json
import logging
import sys

import pytest
import structlog

from nanoclaw_core.errors import NanoclawError
from nanoclaw_telemetry import TraceContext, setup, under


@pytest.fixture
def lines(capsys):
    """Sets logging up at a level and answers a reader of the lines since."""

    def begin(level="DEBUG"):
        setup("broker", {"NANOCLAW_LOG_LEVEL": level} if level else {})
        return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return begin


def logger():
    return structlog.get_logger("test").bind()


def test_a_line_is_one_json_object_with_time_level_event_and_service(lines):
    """What a collector of logs needs, in members of fixed names."""
    read = lines()
    logger().info("call executed", provider="github", code=200, dry=False, ratio=0.5, nothing=None)
    (line,) = read()
    assert (line["level"], line["event"], line["service"]) == ("info", "call executed", "broker")
    assert (line["provider"], line["code"], line["dry"], line["ratio"], line["nothing"]) == (
        "github", 200, False, 0.5, None,
    )  # fmt: skip
    assert line["time"].endswith("Z")
    assert len(line["time"]) == 27
    assert "trace_id" not in line


def test_a_line_carries_the_current_trace(lines):
    """From a line to its trace without guessing."""
    read = lines()
    with under(TraceContext.new()) as trace:
        logger().warning("denied")
    (line,) = read()
    assert (line["trace_id"], line["span_id"]) == (trace.trace_id, trace.span_id)


@pytest.mark.parametrize(
    ("level", "told"),
    [("DEBUG", 4), ("info", 3), ("WARN", 2), ("WARNING", 2), ("ERROR", 1), ("CRITICAL", 0), ("", 3)],
)
def test_the_level_is_a_setting(lines, level, told):
    """INFO when unset; WARN is WARNING."""
    read = lines(level)
    log = logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert len(read()) == told


def test_an_unknown_level_stops_the_start():
    """Strict settings: it is not taken for some other."""
    with pytest.raises(NanoclawError) as caught:
        setup("broker", {"NANOCLAW_LOG_LEVEL": "LOUD"})
    assert caught.value.reason == "INVALID_SETTING"


SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    "key",
    ["authorization", "Authorization", "token", "api_token", "GITHUB_TOKEN", "password", "passwd", "client_secret",
     "secret", "api_key", "apikey", "private_key", "credential", "cookie", "set_cookie"],
)  # fmt: skip
def test_what_lies_under_the_name_of_a_secret_is_not_shown(lines, key):
    """At the top and at any depth."""
    read = lines()
    logger().info("x", **{key: SECRET}, deep={"list": [{key: SECRET}]}, tuple=({key: [SECRET]},))
    text = json.dumps(read())
    assert SECRET not in text
    assert text.count("[scrubbed]") == 3


@pytest.mark.parametrize("key", ["page_token", "input_tokens", "max_tokens", "tokens"])
def test_names_that_only_look_like_secrets_are_shown(lines, key):
    """A page's token and a model's are none."""
    read = lines()
    logger().info("x", **{key: 7})
    assert read()[0][key] == 7


TOKEN = "nct_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"


@pytest.mark.parametrize(
    "text", [f"Bearer {TOKEN}", f"bearer  {SECRET}", f"sent {TOKEN}, refused", f'"BEARER {SECRET}"']
)
def test_a_token_inside_a_text_is_not_shown(lines, text):
    """In the event, a value, a key's value of any depth, an exception or its message."""
    read = lines()
    logger().info(text, value=text, deep={"a": [text]})
    try:
        raise ValueError(text)
    except ValueError as error:
        logger().exception("failed", error=repr(error))
    found = json.dumps(read())
    assert TOKEN not in found
    assert SECRET not in found
    assert "ValueError" in found


def test_an_exception_is_told_with_its_traceback(lines):
    """Under `exception`, at level error."""
    read = lines()
    try:
        raise KeyError("lost")
    except KeyError as error:
        logger().exception("a")
        logger().error("b", exc_info=error)
        logger().error("c", exc_info=True)
    told = read()
    assert [line["level"] for line in told] == ["error"] * 3
    assert all("KeyError: 'lost'" in line["exception"] for line in told)


def test_other_libraries_lines_come_in_the_same_form(lines):
    """Warnings of grpc, OpenTelemetry or docker are JSON too, scrubbed too; their chatter is left out."""
    read = lines()
    logging.getLogger("grpc._cython").warning("channel %s failed with Bearer %s", 7, SECRET)
    logging.getLogger("httpx").info("GET …")
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("docker").exception("no engine")
    grpc_line, docker_line = read()
    assert (grpc_line["logger"], grpc_line["level"]) == ("grpc._cython", "warning")
    assert "channel 7 failed" in grpc_line["event"]
    assert SECRET not in json.dumps(grpc_line)
    assert "OSError: gone" in docker_line["exception"]


def test_setting_up_twice_tells_each_line_once(lines):
    """Tests and restarts in one process do not double the log, and the last service's name counts."""
    lines()
    log = logger()
    read = lines()
    log.warning("x")
    logging.getLogger("other").warning("y")
    assert len(read()) == 2


def test_values_that_json_does_not_know_are_told_by_their_repr(lines):
    """A log call never raises for its values."""
    read = lines()
    logger().info("x", path=object, names={1, 2}, raw=b"\xff")
    assert read()[0]["raw"] == r"b'\xff'"


def test_a_closed_stderr_costs_nothing(lines, monkeypatch):
    """Who reads the log may die; the service goes on."""
    lines()

    class Broken:
        def write(self, _text):
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr(sys, "stderr", Broken())
    logger().error("nobody hears")
