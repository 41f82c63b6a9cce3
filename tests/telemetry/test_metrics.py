"""Metrics: the usual kinds, RPC times, served to this machine only."""

import urllib.request

import pytest

from nanoclaw_core.errors import NanoclawError
from nanoclaw_telemetry import off


@pytest.fixture
def telemetry():
    telemetry = off("test")
    yield telemetry
    telemetry.shutdown()


def scrape(port, accept="application/openmetrics-text; version=1.0.0"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_rpcs_are_counted_and_timed_by_method_and_code(telemetry):
    """One histogram: its count is the number of RPCs, its buckets are cumulative."""
    for seconds in (0.0004, 0.0005, 0.003, 99.0):
        telemetry.rpc.observe("s/M", "OK", seconds)
    telemetry.rpc.observe("s/M", "NOT_FOUND", 0.1)

    def sample(name, **labels):
        return telemetry.registry.get_sample_value(f"nanoclaw_rpc_seconds_{name}", {"method": "s/M", **labels})

    assert sample("count", code="OK") == 4
    assert sample("sum", code="OK") == pytest.approx(99.0039)
    assert sample("bucket", code="OK", le="0.0005") == 2
    assert sample("bucket", code="OK", le="0.0025") == 2
    assert sample("bucket", code="OK", le="0.005") == 3
    assert sample("bucket", code="OK", le="10.0") == 3
    assert sample("bucket", code="OK", le="+Inf") == 4
    assert sample("count", code="NOT_FOUND") == 1


def test_metrics_are_served_as_openmetrics_on_loopback(telemetry):
    """On a free port when asked for 0; our own counters, gauges and histograms among them."""
    telemetry.counter("nanoclaw_calls", "external calls", ["provider"]).labels("github").inc()
    telemetry.gauge("nanoclaw_containers", "running containers").set(2)
    telemetry.histogram("nanoclaw_start_seconds", "time to start").observe(0.2)
    telemetry.rpc.observe("s/M", "OK", 0.1)
    content_type, text = scrape(telemetry.serve_metrics("127.0.0.1:0"))
    assert "openmetrics-text" in content_type
    assert 'nanoclaw_calls_total{provider="github"} 1.0' in text
    assert "nanoclaw_containers 2.0" in text
    assert "nanoclaw_start_seconds_count 1.0" in text
    assert 'nanoclaw_rpc_seconds_count{code="OK",method="s/M"} 1.0' in text
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "10.0.0.1:9000", "example.com:80", ":9000", "127.0.0.1", "127.0.0.1:x"]
)
def test_metrics_are_for_this_machine_only(telemetry, address):
    """They tell what goes on; no credential guards them."""
    with pytest.raises(NanoclawError) as caught:
        telemetry.serve_metrics(address)
    assert caught.value.reason == "NOT_LOOPBACK"


def test_a_port_that_is_taken_is_told_as_such(telemetry):
    """With the address, not with a stack trace."""
    port = telemetry.serve_metrics("127.0.0.1:0")
    with pytest.raises(NanoclawError) as caught:
        telemetry.serve_metrics(f"127.0.0.1:{port}")
    assert caught.value.reason == "ADDRESS_IN_USE"


def test_a_metric_of_a_name_is_made_once(telemetry):
    """Two parts of a service may count the same thing; they may not mean different things by it."""
    first = telemetry.counter("nanoclaw_x", "x")
    assert telemetry.counter("nanoclaw_x", "x") is first
    with pytest.raises(ValueError, match="already a Counter"):
        telemetry.gauge("nanoclaw_x", "x")


def test_two_services_in_one_process_count_apart():
    """Each has a registry of its own."""
    first, second = off("a"), off("b")
    first.counter("nanoclaw_x", "x").inc()
    second.counter("nanoclaw_x", "x")
    assert second.registry.get_sample_value("nanoclaw_x_total") == 0


def test_a_shutdown_stops_serving(telemetry):
    """The port is free again."""
    port = telemetry.serve_metrics("127.0.0.1:0")
    scrape(port)
    telemetry.shutdown()
    telemetry.serve_metrics(f"127.0.0.1:{port}")
