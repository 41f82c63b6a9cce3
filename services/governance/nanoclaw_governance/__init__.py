"""The kernel: tasks, gates, approvals, products, and the log that is the truth about them."""
