"""A broker that kills itself at a random step under load; forked anew for each life from one process that imported all.

`python broker_mortal.py HOME`: reads lines `LIFE SEED STEP` (STEP 0: lives until all is settled) and answers each with
the life's wait status. What was answered to a caller is in answered.log, written after the answer.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.broker import Broker
from nanoclaw_broker.governance import Reading
from nanoclaw_broker.grants import Grants
from nanoclaw_broker.kept_params import Seal
from nanoclaw_broker.ledger import State
from nanoclaw_broker.news import News
from nanoclaw_broker.policy import Level, Limits
from nanoclaw_broker.providers import Action, Effect, Kind, Params, Provider, Result, UnknownEnd
from nanoclaw_broker.reconciling import Reconciler
from nanoclaw_broker.records import counts
from nanoclaw_broker.recovery import settle_crashed
from nanoclaw_broker.registry import Registry
from nanoclaw_broker.secrets import Secrets
from nanoclaw_broker.tables import SLICE
from nanoclaw_core.principal import Caller, Role
from nanoclaw_store import Database
from nanoclaw_telemetry import TraceContext

CALLERS = 16
KEY = b"k" * 32
FOUNDER = Caller("operator:founder", Role.ADMIN)
DEVELOPER = Caller("group:developer", via="service:gateway")
MANY = dict.fromkeys((Level.L1, Level.L2, Level.L3), 10**6)
LIMITS = Limits(pending=64, rate=MANY, soft=MANY, hard=MANY, step_cents=100, day_cents=10**7)


class Mortality:
    """Counts steps; at the one chosen the process dies as SIGKILL has it."""

    def __init__(self, step: int) -> None:
        self._left = step

    def step(self) -> None:
        """Between any two steps."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """A step before and one after."""

        async def mortal(*args: Any) -> Any:
            self.step()
            answer = await work(*args)
            self.step()
            return answer

        return mortal


class Text(Params):
    """What is counted."""

    text: str


class Far(Action[Text]):
    """The far side: a file that nobody rewrites. With PROVIDER_KEY it takes each key once."""

    level = Level.L2
    kind = Kind.MUTATING
    description = "counts"
    params = Text

    def __init__(self, ends_by: UnknownEnd, home: Path, mortality: Mortality) -> None:
        self.name = ends_by.value  # type: ignore[misc]
        self.unknown_ends_by = ends_by  # type: ignore[misc]
        self._file = home / f"{ends_by.value}.effects"
        self._mortality = mortality

    def cost_micros(self, params: Text) -> int:
        """Something, so that budgets take part."""
        return 10

    async def execute(self, params: Text, effect: Effect) -> Result:
        """One line for each effect; a death before it, and one between it and the reply."""
        await asyncio.sleep(0)
        self._mortality.step()
        if self.unknown_ends_by is not UnknownEnd.PROVIDER_KEY or effect.key not in lines(self._file):
            append(self._file, effect.key)
        self._mortality.step()
        return Result({"did": params.text}, cost_micros=4)

    async def verify(self, params: Text, effect: Effect) -> Result | None:
        """Whether the line is there."""
        self._mortality.step()
        return Result({"did": params.text}) if effect.key in lines(self._file) else None


def lines(file: Path) -> list[str]:
    """The keys in a file."""
    return file.read_text().split() if file.exists() else []


def append(file: Path, line: str) -> None:
    """O_APPEND keeps lines whole."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


class NoTasks:
    """No call names one."""

    async def read(self, task_id: str, group: str, *, approvals: bool) -> Reading:
        """Never asked."""
        raise AssertionError

    async def product(self, named: str) -> str:
        """Never asked."""
        raise AssertionError


async def live(home: Path, life: int, mortality: Mortality, *, to_the_end: bool) -> None:
    """One life: what crashed is settled, then load until death, or until nothing is open any more."""
    database = await Database.open(home / "store" / "nanoclaw.db", SLICE)
    write = database.write
    database.write = mortality.around(write)  # type: ignore[method-assign]
    secrets = Secrets(home / "secrets" / "broker")
    far = [Far(end, home, mortality) for end in (UnknownEnd.VERIFY, UnknownEnd.PROVIDER_KEY, UnknownEnd.HARMLESS)]
    registry = Registry([Provider("far", "far away", tuple(far))], secrets)
    reconciler = Reconciler(database, registry, secrets, Seal(KEY), first_seconds=0.002, quiet_seconds=0.01)
    broker = Broker(database, registry, NoTasks(), secrets, KEY, LIMITS, on_unknown=reconciler.wake)
    await settle_crashed(database)
    reconciling = asyncio.create_task(reconciler.run())
    request = pb.GrantRequest(request_id="g", group="developer", provider="far", access_level=pb.ACCESS_LEVEL_L2)
    await Grants(database, registry, News(), NoTasks().product).grant(FOUNDER, request, "")
    rounds = 1 if to_the_end else 1000

    async def caller(number: int) -> None:
        for count in range(rounds):
            action = far[(number + count) % len(far)].name
            key = f"{life}-{number}-{count}"
            call = pb.CallRequest(
                request_id=key,
                provider="far",
                action=action,
                params_json=json.dumps({"text": key}),
                idempotency_key=key,
                attestation=pb.Attestation(signature=pb.Attestation.SIGNATURE_VALID),
            )
            told = await broker.call(DEVELOPER, call, TraceContext.new())
            append(home / "answered.log", json.dumps([told.response.call_id, told.response.code]))

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    while database.read(counts).keys() & {State.PREPARED, State.SENT, State.UNKNOWN}:
        await asyncio.sleep(0.005)
    reconciling.cancel()
    await asyncio.gather(reconciling, return_exceptions=True)
    await broker.close()
    await database.close()


def main() -> None:
    """Forks a life for each line."""
    home = Path(sys.argv[1])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the answers
    for line in sys.stdin:
        life, seed, step = map(int, line.split())
        child = os.fork()
        if child == 0:
            random.seed(seed)
            asyncio.run(live(home, life, Mortality(step), to_the_end=step == 0))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
