"""The provider `logs`: the system's own log files, for agents that look after it."""

import asyncio
from typing import ClassVar

from nanoclaw_broker.providers import Action, Effect, Environment, Kind, Level, Provider, Result
from nanoclaw_broker.providers.log_files import EntryParams, LogFolder, NoParams, QueryParams


class Services(Action[NoParams]):
    """Which logs there are."""

    name: ClassVar[str] = "services"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.READ
    description: ClassVar[str] = "list the services that have a log, with its size"
    params = NoParams

    def __init__(self, folder: LogFolder) -> None:
        self._folder = folder

    async def execute(self, params: NoParams, effect: Effect) -> Result:
        """Reads the folder in a thread."""
        found = await asyncio.to_thread(self._folder.services)
        return Result({"services": found}, f"{len(found)} logs")


class Query(Action[QueryParams]):
    """Lines of a log."""

    name: ClassVar[str] = "query"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.READ
    description: ClassVar[str] = "search the last 4 MiB of a service's log, newest lines first"
    params = QueryParams

    def __init__(self, folder: LogFolder) -> None:
        self._folder = folder

    def summary(self, params: QueryParams) -> str:
        """Which log."""
        return f"lines of {params.service}"

    async def execute(self, params: QueryParams, effect: Effect) -> Result:
        """Reads and searches in a thread."""
        answer = await asyncio.to_thread(self._folder.query, params)
        return Result(answer, f"{len(answer['entries'])} lines of {params.service}")


class Entry(Action[EntryParams]):
    """One line of a log, whole."""

    name: ClassVar[str] = "entry"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.READ
    description: ClassVar[str] = "one whole line by the position that query gave"
    params = EntryParams

    def __init__(self, folder: LogFolder) -> None:
        self._folder = folder

    def summary(self, params: EntryParams) -> str:
        """Which line."""
        return f"line {params.position} of {params.service}"

    async def execute(self, params: EntryParams, effect: Effect) -> Result:
        """Reads in a thread."""
        return Result(await asyncio.to_thread(self._folder.entry, params), f"a line of {params.service}")


def provider(environment: Environment) -> Provider:
    """The provider."""
    folder = LogFolder(environment.home / "logs")
    return Provider("logs", "the system's own logs", (Services(folder), Query(folder), Entry(folder)))
