"""The files of agents, taken exactly once and answered, and what the services tell them."""

import sys

if sys.argv[:1] == ["-m"]:  # so it reads while `python -m` locates what it runs: this is the service, not an import
    from nanoclaw_core.lean import without_terminal

    without_terminal()
