"""The keys of a group in groups.toml, and how each is read: strictly, and complaining by name."""

import math
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nanoclaw_dispatcher.group import Mount, Role


class Wrong(ValueError):
    """What is wrong in the file, beginning with the key."""


def refuse_unknown(found: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raises Wrong for keys that nobody reads."""
    unknown = sorted(found.keys() - known)
    if unknown:
        names = ", ".join(where + key for key in unknown)
        raise Wrong(f"{names}: unknown; known keys are {', '.join(sorted(known))}")


def table(value: Any, where: str) -> dict[str, Any]:
    """A TOML table. Raises Wrong."""
    if not isinstance(value, dict):
        raise Wrong(f"{where}: must be a table")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Wrong(f"{where}: must be a string without NUL")
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{where}: must be true or false")
    return value


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Wrong(f"{where}: must be a whole number of at least 1")
    return value


def _positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise Wrong(f"{where}: must be a number above 0")
    return float(value)


def _not_negative(value: Any, where: str) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else _positive(value, where)


def _role(value: Any, where: str) -> Role:
    try:
        return Role(_text(value, where))
    except ValueError:
        raise Wrong(f"{where}: must be main, executor or approver") from None


def _runtime(value: Any, where: str) -> str:
    if value not in ("process", "docker"):
        raise Wrong(f"{where}: must be process or docker")
    return str(value)


def _command(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Wrong(f"{where}: must be a list of strings")
    words = tuple(_text(word, where) for word in value)
    if words and not words[0]:
        raise Wrong(f"{where}: must begin with a program")
    return words


def _env(value: Any, where: str) -> Mapping[str, str]:
    variables = {name: _text(text, f"{where}.{name}") for name, text in table(value, where).items()}
    for name in variables:
        if not name.isidentifier() or not name.isascii() or name == "TRACEPARENT" or name.startswith("NANOCLAW_"):
            raise Wrong(f"{where}.{name}: is not a variable's name, or one that the dispatcher sets")
    return MappingProxyType(variables)


def _mounts(value: Any, where: str) -> tuple[Mount, ...]:
    if not isinstance(value, list):
        raise Wrong(f"{where}: must be a list of tables")
    return tuple(_mount(item, f"{where}[{number}]") for number, item in enumerate(value))


def _mount(value: Any, where: str) -> Mount:
    found = table(value, where)
    refuse_unknown(found, {"source", "target", "writable"}, where + ".")
    for key in ("source", "target"):
        path = _text(found.get(key, ""), f"{where}.{key}")
        if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
            raise Wrong(f"{where}.{key}: must be an absolute, normal path")
    return Mount(found["source"], found["target"], _boolean(found.get("writable", False), f"{where}.writable"))


READERS: Mapping[str, Callable[[Any, str], Any]] = {
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
    "relay": _boolean,
}
KEYS = set(READERS)
