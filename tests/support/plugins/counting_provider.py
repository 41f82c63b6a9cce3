"""A provider that counts its effects in a file, for the crash sweep: installed as third parties install theirs."""

import os
from pathlib import Path

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import Action, Effect, Environment, Params, Provider, Result


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
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{params.key}\n".encode())
        finally:
            os.close(descriptor)
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


def provider(environment: Environment) -> Provider:
    """The entry point."""
    file = environment.home / "effects.log"
    return Provider("count", "counts effects in a file", (Add(file), Launch(file)))
