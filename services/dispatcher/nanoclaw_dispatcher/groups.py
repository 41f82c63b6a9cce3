"""The groups of agents as they are configured: who there is, what runs for them, and within which limits."""

import enum
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import check_group

PACKAGED = Path(__file__).with_name("groups.toml")


class Role(enum.StrEnum):
    """What a group is for."""

    MAIN = "main"
    EXECUTOR = "executor"
    APPROVER = "approver"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path that an agent sees besides its own folders. Both absolute; read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """One group. Seconds, MiB and cores; the meaning of each key stands in groups.toml."""

    name: str
    role: Role
    command: tuple[str, ...] = ()
    runtime: str = "process"
    image: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mounts: tuple[Mount, ...] = ()
    cpu: float = 1.0
    memory_mb: int = 1024
    pids: int = 256
    file_size_mb: int = 256
    wall_timeout: float = 3600.0
    idle_timeout: float = 600.0
    grace: float = 10.0
    wip_limit: int = 3
    wip_hard: bool = False

    @property
    def builtin(self) -> bool:
        """Whether the built-in reference agent runs for it."""
        return not self.command

    @property
    def is_main(self) -> bool:
        """Whether it is main."""
        return self.role is Role.MAIN


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups, by name, in the order of the file."""

    by_name: Mapping[str, Group]

    def get(self, name: str) -> Group | None:
        """The group, or None."""
        return self.by_name.get(name)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)


def load(path: Path | None = None) -> Groups:
    """The groups of the file at `path`; the packaged ones where it is None or does not exist.

    Raises NanoclawError INVALID_GROUPS that names the file, the group and the key.
    """
    chosen = path if path is not None and path.exists() else PACKAGED
    try:
        return parse(chosen.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _refused(str(chosen), str(error)) from None
    except _Wrong as wrong:
        raise _refused(str(chosen), str(wrong)) from None


def parse(text: str) -> Groups:
    """The groups of a TOML text; see `load`. Raises ValueError that names the group and the key."""
    document = tomllib.loads(text)
    _refuse_unknown(document, {"defaults", "groups"}, "")
    defaults = _table(document.get("defaults", {}), "defaults")
    _refuse_unknown(defaults, _KEYS - {"role"}, "defaults.")
    found: dict[str, Group] = {}
    for name, value in _table(document.get("groups", {}), "groups").items():
        where = f"groups.{name}."
        try:
            check_group("group", name)
        except NanoclawError as error:
            raise _Wrong(f"{where[:-1]}: {error.message}") from None
        table = _table(value, where[:-1])
        _refuse_unknown(table, _KEYS, where)
        if "role" not in table:
            raise _Wrong(f"{where}role: is missing; it is main, executor or approver")
        merged = {**defaults, **table}
        found[name] = Group(name=name, **{key: _CONVERT[key](merged[key], where + key) for key in merged})
    if [group.name for group in found.values() if group.is_main] != ["main"]:
        raise _Wrong("groups: exactly one has the role main, and it is called main")
    return Groups(MappingProxyType(found))


class _Wrong(ValueError):
    """What is wrong in the file, beginning with the key."""


def _refused(path: str, message: str) -> NanoclawError:
    return NanoclawError(
        Kind.INVALID, "INVALID_GROUPS", f"{path}: {message}", next_step="correct the file and restart the dispatcher"
    )


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        names = ", ".join(where + key for key in unknown)
        raise _Wrong(f"{names}: unknown; known keys are {', '.join(sorted(known))}")


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{where}: must be a table")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _Wrong(f"{where}: must be a string without NUL")
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"{where}: must be true or false")
    return value


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Wrong(f"{where}: must be a whole number of at least 1")
    return value


def _positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise _Wrong(f"{where}: must be a number above 0")
    return float(value)


def _not_negative(value: Any, where: str) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else _positive(value, where)


def _role(value: Any, where: str) -> Role:
    try:
        return Role(_text(value, where))
    except ValueError:
        raise _Wrong(f"{where}: must be main, executor or approver") from None


def _runtime(value: Any, where: str) -> str:
    if value not in ("process", "docker"):
        raise _Wrong(f"{where}: must be process or docker")
    return str(value)


def _command(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"{where}: must be a list of strings")
    words = tuple(_text(word, where) for word in value)
    if words and not words[0]:
        raise _Wrong(f"{where}: must begin with a program")
    return words


def _env(value: Any, where: str) -> Mapping[str, str]:
    variables = {name: _text(text, f"{where}.{name}") for name, text in _table(value, where).items()}
    for name in variables:
        if not name.isidentifier() or not name.isascii() or name == "TRACEPARENT" or name.startswith("NANOCLAW_"):
            raise _Wrong(f"{where}.{name}: is not a variable's name, or one that the dispatcher sets")
    return MappingProxyType(variables)


def _mounts(value: Any, where: str) -> tuple[Mount, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"{where}: must be a list of tables")
    return tuple(_mount(item, f"{where}[{number}]") for number, item in enumerate(value))


def _mount(value: Any, where: str) -> Mount:
    table = _table(value, where)
    _refuse_unknown(table, {"source", "target", "writable"}, where + ".")
    for key in ("source", "target"):
        path = _text(table.get(key, ""), f"{where}.{key}")
        if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
            raise _Wrong(f"{where}.{key}: must be an absolute, normal path")
    return Mount(table["source"], table["target"], _boolean(table.get("writable", False), f"{where}.writable"))


_CONVERT: Mapping[str, Callable[[Any, str], Any]] = {
    "role": _role,
    "command": _command,
    "runtime": _runtime,
    "image": _text,
    "env": _env,
    "mounts": _mounts,
    "cpu": _positive,
    "memory_mb": _whole,
    "pids": _whole,
    "file_size_mb": _whole,
    "wall_timeout": _positive,
    "idle_timeout": _positive,
    "grace": _not_negative,
    "wip_limit": _whole,
    "wip_hard": _boolean,
}
_KEYS = set(_CONVERT)
