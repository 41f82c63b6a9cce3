"""A small OTLP collector: takes spans over gRPC on loopback and keeps them, for a trace without Jaeger."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came: ids in hex, times in nanoseconds since 1970, service and kind as OTLP has them.

    links: pairs of trace and span id. error: the status message of one that failed.
    """

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...] = ()
    error: str = ""
    kind: int = 0


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span; where a file is given, also as JSON lines."""

    file: Path | None = None
    spans: list[Span] = field(default_factory=list)

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes a batch of spans."""
        fresh = spans_of(request)
        self.spans.extend(fresh)
        if self.file is not None:
            with self.file.open("a") as out:
                out.writelines(json.dumps(asdict(span)) + "\n" for span in fresh)
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace, by start time."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    @asynccontextmanager
    async def serving(self, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
        """Serves while the context lasts; answers the endpoint for OTEL_EXPORTER_OTLP_ENDPOINT."""
        server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port(address)
        await server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await server.stop(1.0)


def spans_of(request: trace_service_pb2.ExportTraceServiceRequest) -> list[Span]:
    """All spans of a batch."""
    found = []
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes).get("service.name", ""))
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            found.append(
                Span(
                    service=service,
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    error=span.status.message if span.status.code == 2 else "",
                    kind=span.kind,
                )
            )
    return found


def _attributes(attributes: Iterable[Any]) -> dict[str, Any]:
    """Text, whole and broken numbers, truth; nothing of ours has lists."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}
