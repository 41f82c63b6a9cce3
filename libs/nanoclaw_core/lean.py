"""Keeps a service's process from loading what it never shows."""

import sys


def without_terminal() -> None:
    """Hides `rich` from libraries that load it wherever it is installed: 4 MB, and a tenth of the start.

    Only where a package is run by `python -m`: sys.argv[0] is "-m" while it is located and its __init__ runs.
    """
    if sys.argv[:1] == ["-m"]:
        sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
