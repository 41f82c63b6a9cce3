"""Spans arrive under the ids given; a collector that is slow, dead or absent costs nobody anything."""

import socket
import subprocess
import sys
import time

import pytest

from nanoclaw_telemetry import TraceContext, off, setup

NOW = time.time_ns()


@pytest.fixture
def telemetry(collector):
    telemetry = setup("governance", collector.environ)
    yield telemetry
    telemetry.shutdown()


def emit(telemetry, name="task.create", **options):
    context = options.pop("context", None) or TraceContext.new()
    telemetry.emit(name, context, **({"parent": None, "start_ns": NOW, "end_ns": NOW + 5000} | options))
    return context


def test_a_span_arrives_as_it_was_given(collector, telemetry):
    """Ids, parent, times, attributes with their types, links, kind: to the letter."""
    context, parent, link = TraceContext.new(), TraceContext.new(), TraceContext.new()
    attributes = {"task.id": "t1", "version": 3, "changed": True}
    emit(telemetry, context=context, parent=parent, attributes=attributes, links=[link], kind="consumer")
    (span,) = collector.wait(bool)
    assert (span.name, span.trace_id, span.span_id) == ("task.create", context.trace_id, context.span_id)
    assert span.parent_id == parent.span_id
    assert (span.start_ns, span.end_ns) == (NOW, NOW + 5000)
    assert span.attributes == attributes
    assert span.links == ((link.trace_id, link.span_id),)
    assert (span.kind, span.error, span.service) == (5, "", "nanoclaw-governance")


def test_a_span_may_be_somebody_else_s_and_may_tell_an_error(collector, telemetry):
    """The gateway emits the agent's spans; an error is the span's status."""
    emit(telemetry, service="agent", error="gave up")
    emit(telemetry)
    spans = {span.service: span for span in collector.wait(lambda spans: len(spans) == 2)}
    assert spans["nanoclaw-agent"].error == "gave up"
    assert spans["nanoclaw-governance"].error == ""
    assert spans["nanoclaw-governance"].parent_id == ""


def test_a_shutdown_flushes_what_is_queued(collector):
    """The last spans of a service are not lost."""
    telemetry = setup("governance", {**collector.environ, "OTEL_BSP_SCHEDULE_DELAY": "60000"})
    for _ in range(100):
        emit(telemetry)
    telemetry.shutdown()
    assert len(collector.spans) == 100


def test_headers_of_the_standard_variable_are_sent(collector):
    """Hosted collectors ask for a key."""
    environ = {**collector.environ, "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=abc"}
    telemetry = setup("governance", environ)
    emit(telemetry)
    telemetry.shutdown()
    collector.wait(bool)
    assert collector.headers["x-api-key"] == "abc"


def test_secrets_do_not_get_into_attributes(collector, telemetry):
    """By name, whoever passes them."""
    emit(telemetry, attributes={"authorization": "x", "api_token": "y", "provider": "github"})
    (span,) = collector.wait(bool)
    assert span.attributes == {"provider": "github"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_it_is_off_unless_an_endpoint_is_named(environ):
    """And then a span goes nowhere."""
    telemetry = setup("governance", environ)
    assert not telemetry.enabled
    emit(telemetry)
    telemetry.shutdown()


def test_when_off_the_sdk_is_not_even_loaded():
    """It would cost every service memory and start-up time."""
    code = (
        "import sys; from nanoclaw_telemetry import setup; import nanoclaw_rpc; setup('x', {});"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_span_that_cannot_be_built_is_dropped(collector, telemetry):
    """Telling of a request must not break it."""
    telemetry.emit("x", TraceContext("not hex", "b" * 16), parent=None, start_ns=NOW, end_ns=NOW)
    emit(telemetry, kind="unheard-of")
    emit(telemetry, "good")
    assert [span.name for span in collector.wait(bool)] == ["good"]


def test_a_strange_attribute_costs_no_other_span(collector, telemetry):
    """Half a character, a number beyond 64 bits, an object, a novel: the batch gets through, cut and as text."""
    strange = {"half": "\ud800", "huge": 2**70, "none": None, "list": [1], "long": "x" * 5000, "ratio": 0.5}
    emit(telemetry, "strange \ud800", attributes=strange, error="\udfff")
    emit(telemetry, "good")
    spans = {span.name[:7]: span for span in collector.wait(lambda spans: len(spans) == 2)}
    assert set(spans) == {"strange", "good"}
    attributes = spans["strange"].attributes
    assert (attributes["half"], attributes["huge"], attributes["list"]) == ("?", str(2**70), "[1]")
    assert (attributes["ratio"], len(attributes["long"])) == (0.5, 1024)


def test_a_token_in_an_attribute_s_text_is_not_shown(collector, telemetry):
    """Somebody's error message may quote a header."""
    token = "nct_" + "a" * 43
    emit(telemetry, attributes={"problem": f"sent Bearer {token}"}, error=f"refused {token}")
    (span,) = collector.wait(bool)
    assert token not in repr(span)


@pytest.fixture(params=["dead", "mute"])
def bad_endpoint(request):
    """A port where nobody listens, or where somebody takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "mute":
            server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_bad_collector_neither_blocks_nor_holds_up_the_end(bad_endpoint):
    """More spans than the queue holds are taken in no time; shutdown gives up after its bound."""
    telemetry = setup("governance", {"OTEL_EXPORTER_OTLP_ENDPOINT": bad_endpoint})
    begin = time.perf_counter()
    for _ in range(5000):
        emit(telemetry)
    emitting = time.perf_counter() - begin
    begin = time.perf_counter()
    telemetry.shutdown(0.5)
    assert emitting < 5
    assert time.perf_counter() - begin < 4
    emit(telemetry)


def test_off_leaves_logging_alone_and_takes_everything():
    """For tests and short commands."""
    telemetry = off()
    emit(telemetry)
    telemetry.rpc.observe("m", "OK", 0.1)
    telemetry.shutdown()
    telemetry.shutdown()
