"""Typed, strict settings from the environment; each service reads it once, in its __main__, and nowhere else."""

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Mapping
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
    positive: Collection[str] = (),
) -> S:
    """Builds the frozen dataclass `cls` from variables `{prefix}{FIELD}`.

    shared: field name → variable name for settings that all services read alike (`home` → `NANOCLAW_HOME`). strict:
    further prefixes, those of shared settings, under which an unknown variable is refused too. positive: fields whose
    number must be above zero; no number may be below, or infinite.
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
            values[field.name] = value = _convert(variable, environ[variable], hints[field.name])
            if field.name in positive and not value > 0:
                raise _invalid(variable, environ[variable], "is not above 0", "a number above 0")
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
        value = hint(text)
    except ValueError:
        kind = _KINDS.get(hint, hint.__name__)
        raise _invalid(variable, text, f"is not {kind}", kind) from None
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        raise _invalid(variable, text, "is below 0, or no finite number", "a number of 0 or more")
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "1 or 0"}


def _invalid(variable: str, text: str, what: str, wanted: str) -> NanoclawError:
    return NanoclawError(
        Kind.INVALID,
        "INVALID_SETTING",
        f"{variable}={text!r} {what}",
        next_step=f"set {variable} to {wanted}, or unset it",
    )
