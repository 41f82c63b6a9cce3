"""The operator's `config/providers.toml`: one table for each provider that needs telling."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanoclaw_core.errors import Kind, NanoclawError


def configuration(home: Path) -> Mapping[str, Any]:
    """The tables by name; empty where there is no file. Raises INVALID_SETTING."""
    path = home / "config" / "providers.toml"
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise NanoclawError(
            Kind.INVALID, "INVALID_SETTING", f"config/providers.toml: {error}", next_step="mend the file"
        ) from None
