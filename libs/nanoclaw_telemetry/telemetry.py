"""What a service holds of traces and metrics, made once in its `main`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nanoclaw_core import VERSION
from nanoclaw_telemetry import logs
from nanoclaw_telemetry.context import TraceContext
from nanoclaw_telemetry.metrics import BOUNDS, Metrics, RpcTimes

if TYPE_CHECKING:
    from nanoclaw_telemetry.spans import Spans

log = structlog.get_logger("nanoclaw.telemetry")

_NO_ATTRIBUTES: Mapping[str, str | int | bool] = {}


class Telemetry:
    """Spans, when a collector is named, and metrics; made by `setup`."""

    def __init__(self, service: str, spans: "Spans | None") -> None:
        self.service = service
        self._spans = spans
        self._metrics = Metrics()
        self._stops: list[Callable[[], None]] = []

    @property
    def enabled(self) -> bool:
        """Whether spans go anywhere; ask before computing attributes."""
        return self._spans is not None

    @property
    def registry(self) -> CollectorRegistry:
        """Where the metrics are registered."""
        return self._metrics.registry

    @property
    def rpc(self) -> RpcTimes:
        """The times of the RPCs served."""
        return self._metrics.rpc

    def emit(
        self,
        name: str,
        context: TraceContext,
        *,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, str | int | bool] = _NO_ATTRIBUTES,
        links: Sequence[TraceContext] = (),
        kind: str = "internal",
        error: str = "",
        service: str = "",
    ) -> None:
        """Queues one finished span under the ids given; nothing when off.

        Never blocks, and never fails for the collector's sake.

        context: the span's own ids. start_ns, end_ns: Unix time. kind: internal, server, client, producer, consumer.
        error: what went wrong, else empty. service: another resource than ours (`agent`).
        """
        if self._spans is None:
            return
        try:
            self._spans.emit(name, context, parent, start_ns, end_ns, attributes, links, kind, error, service)
        except Exception as problem:  # a span that can't be built must not cost the request that it tells of
            log.warning("span dropped", span=name, problem=repr(problem))

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only rises."""
        return self._metrics.counter(name, help, labels)

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that rises and falls."""
        return self._metrics.gauge(name, help, labels)

    def histogram(
        self,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = BOUNDS,
    ) -> Histogram:
        """How often something took how long, in seconds."""
        return self._metrics.histogram(name, help, labels, buckets)

    def serve_metrics(self, address: str) -> int:
        """Serves the metrics on a loopback `host:port` until shutdown; answers the port (0 takes a free one)."""
        port, stop = self._metrics.serve(address)
        self._stops.append(stop)
        return port

    def shutdown(self, bound_seconds: float = 3.0) -> None:
        """Flushes the spans, for at most the bound, and stops serving metrics."""
        while self._stops:
            self._stops.pop()()
        if self._spans is not None:
            spans, self._spans = self._spans, None
            spans.shutdown(bound_seconds)


def setup(service: str, environ: Mapping[str, str]) -> Telemetry:
    """Configures the process's logging and answers the service's telemetry.

    environ: OTEL_EXPORTER_OTLP_ENDPOINT (off when unset or empty), _HEADERS and _INSECURE; NANOCLAW_LOG_LEVEL
    (default INFO). Raises NanoclawError INVALID_SETTING for an unknown level.
    """
    logs.configure(service, logs.level_of(environ.get("NANOCLAW_LOG_LEVEL") or "INFO"))
    wanted = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not wanted or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return off(service)
    from nanoclaw_telemetry.spans import Spans  # the SDK costs start-up time and memory: only for who asked

    return Telemetry(service, Spans(service, VERSION, environ))


def off(service: str = "") -> Telemetry:
    """Telemetry that exports no spans and leaves logging alone: for tests and short commands."""
    return Telemetry(service, None)
