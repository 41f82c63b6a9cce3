"""Starts agents exactly once, in containers or processes, and sees them to their end."""

from nanoclaw_core.lean import without_terminal

without_terminal()
