"""A verification's report, as people and programs read it."""

from pathlib import Path
from typing import Any


def show(database: Path, report: Any) -> bool:
    """Says what was found; answers whether all is well."""
    raise NotImplementedError
