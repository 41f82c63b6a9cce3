"""A real Jaeger on free loopback ports, in memory; asked by its query API, as its own UI asks."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import free_ports

_CONFIG = """
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
  telemetry:
    metrics: {{level: none}}
    logs: {{level: warn}}
extensions:
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    grpc: {{endpoint: "127.0.0.1:{grpc}"}}
  jaeger_storage:
    backends:
      memory: {{memory: {{max_traces: 10000}}}}
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{otlp}"}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


@dataclass(frozen=True)
class Jaeger:
    """endpoint: for OTEL_EXPORTER_OTLP_ENDPOINT. query: where its API is."""

    endpoint: str
    query: str

    def ask(self, path: str) -> Any:
        """What the API answers under `data`."""
        with urllib.request.urlopen(f"{self.query}/api/{path}", timeout=5) as answer:
            return json.load(answer)["data"]

    async def trace(self, trace_id: str, complete: Callable[[list[dict[str, Any]]], bool]) -> dict[str, Any]:
        """The trace, once its spans are complete: they come in batches."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(urllib.error.HTTPError):  # 404 until the first span is there
                    found: dict[str, Any] = self.ask(f"traces/{trace_id}")[0]
                    if complete(found["spans"]):
                        return found
                await asyncio.sleep(0.1)

    def everything(self) -> str:
        """All traces of all services, as text."""
        return "\n".join(
            json.dumps(self.ask(f"traces?service={service}&limit=5000")) for service in self.ask("services")
        )


@asynccontextmanager
async def jaeger(binary: str, folder: Path) -> AsyncIterator[Jaeger]:
    """Runs it while the context lasts; its log is folder/jaeger.log."""
    otlp, query, grpc = free_ports(3)
    config = folder / "jaeger.yaml"
    config.write_text(_CONFIG.format(otlp=otlp, query=query, grpc=grpc))
    with (folder / "jaeger.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(binary, "--config", str(config), stdout=log, stderr=log)
    try:
        found = Jaeger(f"http://127.0.0.1:{otlp}", f"http://127.0.0.1:{query}")
        async with asyncio.timeout(30):
            while not _serves(found):
                assert process.returncode is None, (folder / "jaeger.log").read_text()
                await asyncio.sleep(0.1)
        yield found
    finally:
        if process.returncode is None:
            process.kill()  # it keeps all in memory, and takes 20 s to say goodbye
            await process.wait()


def _serves(one: Jaeger) -> bool:
    try:
        one.ask("services")
    except OSError:
        return False
    return True
