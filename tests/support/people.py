"""A founder who lets a group think, makes tasks and waits for them, over the four services as processes."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2 as gov
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw.runtime.v1 import runtime_pb2_grpc
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor
from nanoclaw_rpc import Credentials, connect


class People:
    """The founder's clients, all on the services' own sockets."""

    def __init__(self, home: Path) -> None:
        token = Credentials.open(home / "secrets").token_file("operator:founder")
        self._channels = [
            connect(service.target(home), token_file=token)
            for service in SERVICES
            if service.name in ("governance", "broker", "dispatcher")
        ]
        names = [service.name for service in SERVICES if service.name in ("governance", "broker", "dispatcher")]
        channels = dict(zip(names, self._channels, strict=True))
        self.governance: Any = governance_pb2_grpc.GovernanceServiceStub(channels["governance"])
        self.broker: Any = broker_pb2_grpc.BrokerServiceStub(channels["broker"])
        self.runtime: Any = runtime_pb2_grpc.RuntimeServiceStub(channels["broker"])
        self.dispatcher: Any = dispatcher_pb2_grpc.DispatcherServiceStub(channels["dispatcher"])

    async def ready(self, task_id: str, description: str = "") -> None:
        """A task for developers."""
        create = gov.CreateTaskRequest(
            request_id=task_id,
            id=task_id,
            title="Think",
            description=description,
            task_type=gov.TASK_TYPE_BUG,
            assigned_group="developer",
        )
        await self.governance.CreateTask(create)
        for state in (gov.TASK_STATE_TRIAGED, gov.TASK_STATE_READY):
            await self.governance.TransitionTask(
                gov.TransitionTaskRequest(request_id=f"{task_id}-{state}", task_id=task_id, to_state=state)
            )

    async def until(self, task_id: str, *states: int) -> gov.Task:
        """Waits until it is in one of the states."""
        async with asyncio.timeout(50):
            while True:
                task: gov.Task = (await self.governance.GetTask(gov.GetTaskRequest(task_id=task_id))).task
                if task.state in states:
                    return task
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def running(home: Path, environ: dict[str, str]) -> AsyncIterator[tuple[People, Supervisor]]:
    """The four services."""
    async with Supervisor(home, [sys.executable], environ).running() as supervisor:
        people = People(home)
        try:
            yield people, supervisor
        finally:
            await people.close()
