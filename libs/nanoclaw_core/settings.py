"""Typed, strict settings from the environment; each service reads it once, in its __main__, and nowhere else."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from nanoclaw_core.errors import Kind, NanoclawError

S = TypeVar("S")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


def load(
    cls: type[S],
    prefix: str,
    environ: Mapping[str, str],
    *,
    shared: Mapping[str, str] | None = None,
    strict: tuple[str, ...] = (),
) -> S:
    """Builds the frozen dataclass `cls` from variables `{prefix}{FIELD}`.

    shared: field name → variable name for settings that all services read alike (`home` → `NANOCLAW_HOME`). strict:
    further prefixes, those of shared settings, under which an unknown variable is refused too.
    Field types: str, int, float, bool, Path, and those or None. Raises NanoclawError INVALID_SETTING for a value that
    does not fit, and UNKNOWN_SETTING for a variable with such a prefix that no field answers to.
    """
    shared = shared or {}
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    known: set[str] = set()
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        variable = shared.get(field.name, prefix + field.name.upper())
        known.add(variable)
        if variable in environ:
            values[field.name] = _convert(variable, environ[variable], hints[field.name])
    unknown = sorted(name for name in environ if name.startswith((prefix, *strict)) and name not in known)
    if unknown:
        raise NanoclawError(
            Kind.INVALID,
            "UNKNOWN_SETTING",
            f"no setting is called {', '.join(unknown)}",
            next_step=f"known ones are {', '.join(sorted(known))}",
        )
    return cls(**values)


def _convert(variable: str, text: str, hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if text == "":
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    try:
        if hint is bool:
            if text.lower() in _TRUE:
                return True
            if text.lower() in _FALSE:
                return False
            raise ValueError(text)
        if hint is Path:
            return Path(text).absolute()
        return hint(text)
    except ValueError:
        raise NanoclawError(
            Kind.INVALID,
            "INVALID_SETTING",
            f"{variable}={text!r} is not a {hint.__name__}",
            next_step=f"set {variable} to a {hint.__name__}, or unset it",
        ) from None
