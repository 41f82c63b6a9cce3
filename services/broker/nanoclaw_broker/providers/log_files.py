"""Log files read from their end: bounded, without following links, and never outside their folder."""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from nanoclaw_broker.providers import ActionFailed, Params

MOST_READ = 4 * 1024 * 1024
"""How far back from its end a file is searched."""
MOST_LINE = 32 * 1024
MOST_SHOWN = 2_000
MOST_ANSWER = 40_000

_Service = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
_Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT[0-9:.]{5,15}Z$")]
_FILE = re.compile(r"([a-z][a-z0-9_-]{0,63})\.log")
_LEVELS = ("debug", "info", "warning", "error", "critical")


class NoParams(Params):
    """Nothing."""


class QueryParams(Params):
    """Which lines."""

    service: _Service = Field(description="as `services` names it")
    level: str | None = Field(
        default=None, pattern=f"^({'|'.join(_LEVELS)})$", description="this level or a graver one"
    )
    event: str | None = Field(default=None, max_length=200, description="exactly this event")
    contains: str | None = Field(default=None, min_length=1, max_length=200, description="a text within the line")
    trace_id: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    since: _Moment | None = Field(default=None, description="2026-01-31T00:00:00Z; not before")
    until: _Moment | None = Field(default=None, description="not after")
    limit: int = Field(default=50, ge=1, le=100)


class EntryParams(Params):
    """One line."""

    service: _Service
    position: int = Field(ge=0, description="as `query` gave it")


class LogFolder:
    """The `*.log` files of one folder, opened without following links."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, service: str) -> int:
        """A descriptor of a service's file. Raises ActionFailed LOG_NOT_FOUND."""
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                file = os.open(f"{service}.log", flags, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError:
            raise _not_found(service) from None
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
        raise _not_found(service)

    def services(self) -> list[dict[str, Any]]:
        """Every file with its size."""
        try:
            with os.scandir(self._folder) as entries:
                found = [
                    {"service": match[1], "bytes": entry.stat(follow_symlinks=False).st_size}
                    for entry in entries
                    if (match := _FILE.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda one: str(one["service"]))

    def query(self, params: QueryParams) -> dict[str, Any]:
        """Matching lines, the newest first."""
        file = self.open(params.service)
        try:
            found: list[dict[str, Any]] = []
            room = MOST_ANSWER
            for position, line in _backwards(file):
                fields = _fields(line)
                if not _matches(params, line, fields):
                    continue
                shown = _shown(position, line, fields)
                room -= len(json.dumps(shown).encode())
                if len(found) == params.limit or room < 0:
                    return {"entries": found, "more": True}
                found.append(shown)
            return {"entries": found, "more": os.fstat(file).st_size > MOST_READ}
        finally:
            os.close(file)

    def entry(self, params: EntryParams) -> dict[str, Any]:
        """The line that begins at a position."""
        file = self.open(params.service)
        try:
            before = os.pread(file, 1, params.position - 1) if params.position else b"\n"
            line, newline, _ = os.pread(file, MOST_LINE, params.position).partition(b"\n")
        finally:
            os.close(file)
        if before != b"\n" or not line:
            raise ActionFailed(
                "ENTRY_NOT_FOUND",
                f"no line of {params.service} begins at {params.position}",
                next_steps=("take a position that `query` gave",),
            )
        fields = _fields(line)
        shown: dict[str, Any] = {"position": params.position, "whole": bool(newline)}
        return shown | ({"fields": fields} if fields is not None else {"line": line.decode(errors="replace")})


def _backwards(file: int) -> Iterator[tuple[int, bytes]]:
    """Position and text of the lines in the last MOST_READ bytes, from the end."""
    size = os.fstat(file).st_size
    start = max(0, size - MOST_READ)
    block = os.pread(file, size - start, start)
    if start:  # the first line is cut
        cut = block.find(b"\n") + 1
        block, start = block[cut:], start + cut
    end = len(block)
    while end > 0:
        begin = block.rfind(b"\n", 0, end - 1) + 1
        line = block[begin:end].rstrip(b"\n")
        if line:
            yield start + begin, line
        end = begin


def _fields(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _matches(params: QueryParams, line: bytes, fields: dict[str, Any] | None) -> bool:
    if params.contains is not None and params.contains.encode(errors="replace") not in line:
        return False
    if fields is None:
        return params.level is params.event is params.trace_id is params.since is params.until is None
    time, level = str(fields.get("time", "")), str(fields.get("level", ""))
    return (
        (params.level is None or (level in _LEVELS and _LEVELS.index(level) >= _LEVELS.index(params.level)))
        and (params.event is None or fields.get("event") == params.event)
        and (params.trace_id is None or fields.get("trace_id") == params.trace_id)
        and (params.since is None or time >= params.since.removesuffix("Z"))
        and (params.until is None or time.removesuffix("Z") <= params.until.removesuffix("Z"))
    )


def _shown(position: int, line: bytes, fields: dict[str, Any] | None) -> dict[str, Any]:
    if fields is not None and len(line) <= MOST_SHOWN:
        return {"position": position, "fields": fields}
    return {"position": position, "line": line[:MOST_SHOWN].decode(errors="replace"), "whole": len(line) <= MOST_SHOWN}


def _not_found(service: str) -> ActionFailed:
    return ActionFailed("LOG_NOT_FOUND", f"there is no log of {service}", next_steps=("ask `services` for the names",))
