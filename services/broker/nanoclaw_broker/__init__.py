"""The external access broker: decides about every effect on the outside world, has it, and keeps the evidence."""

import sys

if sys.argv[:1] == ["-m"]:  # so it reads while `python -m` locates what it runs: this is the service, not an import
    from nanoclaw_core.lean import without_terminal

    without_terminal()
