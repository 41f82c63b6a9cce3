"""Where the demo plays: services of its own as processes, or those that run already in containers."""

import asyncio
import json
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import grpc.aio
from rich.console import Console

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_cli import trace_view
from nanoclaw_cli.announcement import Announcement
from nanoclaw_cli.collector import Collector
from nanoclaw_cli.commands import output_of
from nanoclaw_cli.invocation import Invocation, pasted
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor
from nanoclaw_rpc import connect
from nanoclaw_store import verify

Notice = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification of the log found."""

    rows: int
    findings: list[str]


class Stage(Protocol):
    """Four services, and what is to be seen of them afterwards.

    headline: for the view. logs: where to look when something fails. patience: seconds until then.
    """

    headline: str
    logs: str
    patience: float

    @property
    def announcement(self) -> Announcement | None:
        """The write to the outside world that can be played here; None where the broker could reach nobody."""
        ...

    def running(self, notice: Notice) -> AbstractAsyncContextManager[None]:
        """The services, serving, inside."""
        ...

    def connect(self, service: str, operator: str = "") -> grpc.aio.Channel:
        """A channel to a service as an operator; without a name as the one who plays."""
        ...

    async def verdict(self) -> Verdict:
        """Verifies the log of every slice, offline."""
        ...

    def show_trace(self, console: Console, task: pb.Task, trace_id: str) -> None:
        """Shows the trace of a task, or says where it is."""
        ...

    def go_on(self, task_id: str) -> list[tuple[str, str]]:
        """What to type next, as it can be pasted, and what each does."""
        ...


@dataclass
class Processes:
    """Services of the demo's own over a home, and a collector of their spans unless the environment names another."""

    home: Path
    environ: Mapping[str, str]
    patience: float = 45.0
    announcement: Announcement = field(init=False)
    _collector: Collector = field(init=False)

    def __post_init__(self) -> None:
        self.announcement = Announcement(self.home, self._secrets)
        self._collector = Collector(self.home / "logs" / "traces.jsonl")
        self.headline = f"NanoClaw OS demo · data in {self.home}"
        self.logs = f"the services' logs are in {self.home / 'logs'}"

    @property
    def _secrets(self) -> Path:
        return Path(self.environ.get("NANOCLAW_SECRETS") or self.home / "secrets")

    @property
    def _endpoint(self) -> str | None:
        return self.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")

    @asynccontextmanager
    async def running(self, notice: Notice) -> AsyncIterator[None]:
        """Starts everything, and stops it on the way out."""
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        async with self._collector.serving() as ours:
            environ = {
                **self.announcement.environ(self.environ),
                "OTEL_EXPORTER_OTLP_ENDPOINT": ours if self._endpoint is None else self._endpoint,
            }
            supervisor = Supervisor(
                self.home, [sys.executable], environ, notice=notice, prepare=self.announcement.prepared
            )
            async with supervisor.running():
                yield

    def connect(self, service: str, operator: str = "") -> grpc.aio.Channel:
        """Over its socket."""
        found = next(one for one in SERVICES if one.name == service)
        token = self._secrets / "operators" / f"{operator or 'founder'}.token"
        return connect(found.target(self.home), token_file=token)

    async def verdict(self) -> Verdict:
        """By reading the file."""
        report = await asyncio.to_thread(verify, self.home / "store" / "nanoclaw.db")
        return Verdict(sum(part.rows for part in report.slices), list(report.findings))

    def show_trace(self, console: Console, task: pb.Task, trace_id: str) -> None:
        """As a tree, where the spans came to us."""
        if self._endpoint is not None:
            console.print(f"trace of {task.id}: {trace_id}, sent to {self._endpoint}")
            return
        console.print(trace_view.tree(self._collector.trace(trace_id), f"trace {trace_id}: {task.title}"))
        console.print(
            f"all spans are in {self._collector.file}; to see them in Jaeger, run one that takes OTLP on port 4317,\n"
            "then  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 make demo"
        )

    def go_on(self, task_id: str) -> list[tuple[str, str]]:
        """Its services are stopped, its data is there."""
        nanoclaw = pasted(self.home)
        return [
            (f"{nanoclaw} audit verify", "the log again, offline"),
            (f"{nanoclaw} up --detach", "the services, over the same data"),
            (f"{nanoclaw} task history {task_id}", "fact by fact, with who did it"),
            (f"{nanoclaw} stop", "ends them"),
        ]


@dataclass
class Containers:
    """The services of compose.yaml, which run already. compose: what runs compose. traces: Jaeger's pages, or empty."""

    invocation: Invocation
    compose: str
    traces: str = ""
    patience: float = 120.0
    announcement: Announcement | None = None

    def __post_init__(self) -> None:
        self.headline = f"NanoClaw OS demo · containers at {self.invocation.at}"
        self.logs = f"the services' logs: {self.compose} logs"

    @asynccontextmanager
    async def running(self, notice: Notice) -> AsyncIterator[None]:
        """Asks the dispatcher what agents run in; leaves everything running."""
        async with self.connect("dispatcher") as channel:
            answer = await dispatcher_pb2_grpc.DispatcherServiceStub(channel).GetStatus(dispatcher.GetStatusRequest())
        for service in SERVICES:
            notice(service.name, "serving")
        self.headline += f" · agents: {answer.runtime}, {answer.isolation}"
        yield

    def connect(self, service: str, operator: str = "") -> grpc.aio.Channel:
        """Over its port, with the operator's certificate."""
        found = next(one for one in SERVICES if one.name == service)
        given = replace(self.invocation, operator=operator or self.invocation.operator)
        return connect(given.target(found), token_file=given.token_file, tls=given.tls, peer=service)

    async def verdict(self) -> Verdict:
        """In a container that has the database."""
        verifying = ("exec", "-T", "governance", "python3", "-m", "nanoclaw_cli", "audit", "verify", "--json")
        report = json.loads(await output_of(*shlex.split(self.compose), *verifying, refusals=(1,)))
        return Verdict(sum(part["rows"] for part in report["slices"]), report["findings"])

    def show_trace(self, console: Console, task: pb.Task, trace_id: str) -> None:
        """Where to look at it."""
        where = f": {self.traces}/trace/{trace_id}" if self.traces else ""
        console.print(f"trace of {task.id}: {trace_id}{where}", soft_wrap=True)

    def go_on(self, task_id: str) -> list[tuple[str, str]]:
        """They run on."""
        return [
            (f"deploy/nanoclaw task history {task_id}", "fact by fact, with who did it"),
            ("make down", "ends the containers"),
        ]
