"""The files of agents, taken exactly once and answered, and what the services tell them."""

from nanoclaw_core.lean import without_terminal

without_terminal()
