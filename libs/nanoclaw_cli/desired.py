"""What a person wants of the services, kept over restarts: a stop stays stopped until somebody says up."""

import json
from pathlib import Path

from nanoclaw_core.clock import to_text, utc_now

RUNNING = "running"
STOPPED = "stopped"


def want(home: Path, state: str) -> None:
    """Records it."""
    path = _file(home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"desired": state, "since": to_text(utc_now())}) + "\n")
    temporary.replace(path)


def wanted(home: Path) -> str:
    """What was wanted last; `stopped` where nobody ever said."""
    try:
        return str(json.loads(_file(home).read_text())["desired"])
    except (OSError, ValueError, KeyError, TypeError):
        return STOPPED


def _file(home: Path) -> Path:
    return home / "run" / "desired.json"
