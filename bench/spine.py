"""What the spine costs: a task read from memory, by a plain grpc.aio server and behind all of our concerns.

`python -m bench.spine` prints a table; `python -m bench.spine serve plain|spine|traced <folder> [endpoint]` is the
serving process.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

from bench.load import closed_loop
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_rpc import Access, Credentials, Server, ServiceSpec, connect, serve_until_signalled
from nanoclaw_telemetry import TraceContext, setup, under

NAME = "nanoclaw.governance.v1.GovernanceService"


class Memory(stubs.GovernanceServiceServicer):
    """Answers the task it was asked for, of about 200 bytes."""

    async def GetTask(self, request: Any, context: Any) -> pb.GetTaskResponse:
        """The answer."""
        return pb.GetTaskResponse(task=pb.Task(id=request.task_id, title="t" * 60, description="d" * 100))


async def _serve(kind: str, folder: Path, endpoint: str = "") -> None:
    address = f"unix:{folder}/{kind}.sock"
    if kind == "plain":
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        stubs.add_GovernanceServiceServicer_to_server(Memory(), server)
        server.add_insecure_port(address)
        await server.start()
        print("ready", flush=True)
        await server.wait_for_termination()
        return
    telemetry = setup("governance", {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if kind == "traced" else {})
    rpcs = pb.DESCRIPTOR.services_by_name["GovernanceService"].methods_by_name
    access = dict.fromkeys(rpcs, frozenset({Access.ADMIN, Access.MAIN}))
    spec = ServiceSpec(NAME, stubs.add_GovernanceServiceServicer_to_server, Memory(), access)
    credentials = Credentials.open(folder / "secrets")
    ours = Server(listen=[address], services=[spec], credentials=credentials, telemetry=telemetry)
    await serve_until_signalled(ours, ready=lambda: print("ready", flush=True))
    telemetry.shutdown()


async def _measure(folder: Path, kinds: list[str], pids: dict[str, int], callers: int, rounds: int) -> None:
    samples: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    token = folder / "secrets" / "operators" / "founder.token"
    client = os.environ.get("SPINE_CLIENT", "plain")
    header = (("authorization", f"Bearer {token.read_text().strip()}"), ("traceparent", TraceContext.new().traceparent))
    for number in range(rounds + 1):
        for kind in kinds if number % 2 else reversed(kinds):
            address = f"unix:{folder}/{kind}.sock"
            ours = client == "spine" and kind != "plain"
            channel = connect(address, token_file=token) if ours else grpc.aio.insecure_channel(address)
            stub = stubs.GovernanceServiceStub(channel)
            request = pb.GetTaskRequest(task_id="01J00000000000000000000000")

            async def call(_number: int, stub: Any = stub, request: Any = request, ours: bool = ours) -> object:
                return await (stub.GetTask(request) if ours else stub.GetTask(request, timeout=5.0, metadata=header))

            with under(TraceContext.new()):
                sample = await closed_loop(call, callers, 0.5, pids[kind])
            await channel.close()
            if number:
                done = sorted(sample.latencies)
                cpu = sample.cpu_seconds / len(done) * 1e6
                samples[kind].append((len(done) / sample.seconds, done[len(done) // 2] * 1e3, cpu))
    base = [one[0] for one in samples[kinds[0]]]
    for kind in kinds:
        rate, p50, cpu = (statistics.median(column) for column in zip(*samples[kind], strict=True))
        # of neighbouring slices, so that what else the machine does cancels out
        ratio = statistics.median(one[0] / plain for one, plain in zip(samples[kind], base, strict=True))
        print(f"{callers:3} {kind:8} {rate:8.0f}/s  p50 {p50:6.2f} ms  server {cpu:5.0f} µs  ratio {ratio:.3f}")


def main() -> None:
    """Prints the table."""
    kinds = ["plain", "spine"]
    with tempfile.TemporaryDirectory(prefix="nc-", dir="/tmp") as name:
        folder = Path(name)
        Credentials.open(folder / "secrets")
        processes = {}
        try:
            for kind in kinds:
                command = [sys.executable, "-m", "bench.spine", "serve", kind, name]
                processes[kind] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                processes[kind].stdout.readline()  # type: ignore[union-attr]
            pids = {kind: process.pid for kind, process in processes.items()}
            for callers in map(int, os.environ.get("SPINE_CALLERS", "1,16,64").split(",")):
                asyncio.run(_measure(folder, kinds, pids, callers, int(os.environ.get("SPINE_ROUNDS", "15"))))
        finally:
            for process in processes.values():
                process.terminate()
                process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:5]))
    else:
        main()
