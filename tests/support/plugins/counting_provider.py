"""A provider that counts its effects in a file, for the crash sweep: installed as third parties install theirs.

Its far side is the home: what lies there as `trouble` has every `look` fail, as `held` keeps `look` and `buy` waiting.
"""

import asyncio
import os
from pathlib import Path

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import Action, ActionFailed, Effect, Environment, Params, Provider, Result


class AddParams(Params):
    """What is counted."""

    key: str


class Add(Action[AddParams]):
    """Appends the key to a file that nobody rewrites."""

    name = "add"
    level = Level.L2
    kind = Kind.MUTATING
    unknown_ends_by = UnknownEnd.VERIFY
    description = "counts one effect"
    params = AddParams

    def __init__(self, file: Path) -> None:
        self._file = file

    async def execute(self, params: AddParams, effect: Effect) -> Result:
        """One line for each effect; O_APPEND keeps lines whole."""
        _append(self._file, params.key)
        return Result({"counted": params.key})

    async def verify(self, params: AddParams, effect: Effect) -> Result | None:
        """Whether the key is in the file."""
        counted = self._file.read_text().splitlines() if self._file.exists() else []
        return Result({"counted": params.key}) if params.key in counted else None


class Launch(Add):
    """The same, and nobody can say what became of it."""

    name = "launch"
    level = Level.L3
    unknown_ends_by = UnknownEnd.NONE


class Look(Action[AddParams]):
    """Looks; `looks.log` tells who got so far."""

    name = "look"
    level = Level.L1
    kind = Kind.READ
    description = "looks at what is far away"
    params = AddParams

    def __init__(self, home: Path) -> None:
        self._home = home

    async def execute(self, params: AddParams, effect: Effect) -> Result:
        """What it sees, unless there is trouble."""
        _append(self._home / "looks.log", params.key)
        await _held(self._home)
        if (self._home / "trouble").exists():
            raise ActionFailed("SERVICE_UNAVAILABLE", "it is down", in_trouble=True)
        return Result({"seen": params.key})


class Buy(Add):
    """The same for money: 10 cents at the most, 4 in the end."""

    name = "buy"

    def cost_micros(self, params: AddParams) -> int:
        """What is set aside."""
        return 100_000

    async def execute(self, params: AddParams, effect: Effect) -> Result:
        """Waits where it is told to, and counts."""
        await _held(self._file.parent)
        await super().execute(params, effect)
        return Result({"counted": params.key}, cost_micros=40_000)


async def _held(home: Path) -> None:
    while (home / "held").exists():
        await asyncio.sleep(0.005)


def _append(file: Path, key: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{key}\n".encode())
    finally:
        os.close(descriptor)


def provider(environment: Environment) -> Provider:
    """The entry point."""
    file = environment.home / "effects.log"
    actions = (Add(file), Launch(file), Look(environment.home), Buy(file))
    return Provider("count", "counts effects in a file", actions)
