"""A small OTLP collector: takes spans over gRPC on loopback and keeps them, for a trace without Jaeger."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came: ids in hex, times in nanoseconds since 1970."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str]
    links: tuple[str, ...] = ()
    error: str = ""


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span; where a file is given, also as JSON lines."""

    file: Path | None = None
    spans: list[Span] = field(default_factory=list)

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes a batch of spans."""
        fresh = list(_spans(request))
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


def _spans(request: trace_service_pb2.ExportTraceServiceRequest) -> list[Span]:
    found = []
    for resource_spans in request.resource_spans:
        resource = {entry.key: entry.value.string_value for entry in resource_spans.resource.attributes}
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                found.append(
                    Span(
                        service=resource.get("service.name", ""),
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes={entry.key: _text(entry.value) for entry in span.attributes},
                        links=tuple(link.trace_id.hex() for link in span.links),
                        error=span.status.message if span.status.code == 2 else "",
                    )
                )
    return found


def _text(value: object) -> str:
    kind = value.WhichOneof("value")  # type: ignore[attr-defined]
    return str(getattr(value, kind)) if kind else ""
