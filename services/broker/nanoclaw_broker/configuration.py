"""The operator's `config/providers.toml`, and further files like it: one table for each provider that needs telling."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanoclaw_core.errors import Kind, NanoclawError


def configuration(home: Path, further: Sequence[Path] = ()) -> Mapping[str, Any]:
    """The tables by name, of all files together; a value stands in one of them only. Raises INVALID_SETTING.

    Without config/providers.toml there are none of it; the further files must be there.
    """
    path = home / "config" / "providers.toml"
    tables = _read(path, "config/providers.toml") if path.exists() else {}
    for one in further:
        _add(tables, _read(one, str(one)), "", one)
    return tables


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(f"{name}: {error}", "mend the file") from None


def _add(tables: dict[str, Any], more: Mapping[str, Any], within: str, path: Path) -> None:
    for name, value in more.items():
        here = tables.get(name)
        if name not in tables:
            tables[name] = value
        elif isinstance(here, dict) and isinstance(value, dict):
            _add(here, value, f"{within}{name}.", path)
        else:
            raise _refused(f"{path}: {within}{name} is set in another file, too", "leave it in one of them")


def _refused(message: str, next_step: str) -> NanoclawError:
    return NanoclawError(Kind.INVALID, "INVALID_SETTING", message, next_step=next_step)
