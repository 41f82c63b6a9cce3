"""The kernel: tasks, gates, approvals, products, and the log that is the truth about them."""

from nanoclaw_core.lean import without_terminal

without_terminal()
