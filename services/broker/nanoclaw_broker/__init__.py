"""The external access broker: decides about every effect on the outside world, has it, and keeps the evidence."""

from nanoclaw_core.lean import without_terminal

without_terminal()
