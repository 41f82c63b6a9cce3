"""Spans on their way to a collector: built directly with the ids we chose, exported in the background over OTLP."""

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from nanoclaw_telemetry.context import TraceContext
from nanoclaw_telemetry.scrub import is_secret_key, scrub_text

_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_LONGEST = 1024  # characters of an attribute
_OK = Status(StatusCode.UNSET)


class _Resource(Resource):
    """A resource that is hashed once, not by serialising it anew for every span."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Spans:
    """Hands spans to a batch processor; a full queue drops the oldest, a dead collector hurts nobody."""

    def __init__(self, service: str, version: str, environ: Mapping[str, str]) -> None:
        insecure = environ.get("OTEL_EXPORTER_OTLP_INSECURE")
        self._exporter = OTLPSpanExporter(
            endpoint=environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ["OTEL_EXPORTER_OTLP_ENDPOINT"],
            insecure=None if insecure is None else insecure.lower() == "true",
            headers=environ.get("OTEL_EXPORTER_OTLP_HEADERS") or None,
        )
        self._processor = BatchSpanProcessor(
            self._exporter, schedule_delay_millis=float(environ.get("OTEL_BSP_SCHEDULE_DELAY") or 1000)
        )
        self._version = version
        self._scope = InstrumentationScope("nanoclaw", version)
        self._service = service
        self._host = _host()
        self._resources: dict[str, _Resource] = {}

    def emit(
        self,
        name: str,
        context: TraceContext,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, str | int | bool],
        links: Sequence[TraceContext],
        kind: str,
        error: str,
        service: str,
    ) -> None:
        """Queues one finished span."""
        self._processor.on_end(
            ReadableSpan(
                _plain(name),
                context=_span_context(context, remote=False),
                parent=_span_context(parent, remote=kind == "server") if parent else None,
                resource=self._resource(service or self._service),
                attributes={key: _plain(value) for key, value in attributes.items() if not is_secret_key(key)},
                links=[Link(_span_context(link, remote=True)) for link in links],
                kind=_KINDS[kind],
                status=Status(StatusCode.ERROR, _plain(error)) if error else _OK,
                start_time=start_ns,
                end_time=end_ns,
                instrumentation_scope=self._scope,
            )
        )

    def shutdown(self, bound_seconds: float) -> None:
        """Flushes what is queued, for at most the bound; then gives up."""
        flush = threading.Thread(target=self._processor.shutdown, name="nanoclaw-span-flush", daemon=True)
        flush.start()
        flush.join(bound_seconds)
        if flush.is_alive():
            self._exporter.shutdown()  # wakes the exporter out of its retries
            flush.join(1.0)

    def _resource(self, service: str) -> _Resource:
        resource = self._resources.get(service)
        if resource is None:
            resource = self._resources[service] = _Resource(
                {"service.name": f"nanoclaw-{service}", "service.version": self._version, **self._host}
            )
        return resource


def _host() -> dict[str, str]:
    """Whose clock the spans' times are: a kernel's boot, the same in all its containers, else the name of the host.

    A viewer suspects the clocks of spans that name none, or different ones, and says so at each of them. Jaeger looks
    at host.id, and where its older API answers at `ip`; all our services share one machine.
    """
    named = {"host.name": os.uname().nodename, "ip": "127.0.0.1"}
    with contextlib.suppress(OSError):
        named["host.id"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return named


def _plain(value: Any) -> Any:
    """The value as the encoder takes it: one that it can't take would cost the whole batch."""
    if type(value) is bool or type(value) is float or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    text = value if type(value) is str else str(value)
    text = text if text.isascii() else text.encode("utf-8", "replace").decode()
    return scrub_text(text[:_LONGEST])


def _span_context(context: TraceContext, *, remote: bool) -> SpanContext:
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), remote, _SAMPLED)
