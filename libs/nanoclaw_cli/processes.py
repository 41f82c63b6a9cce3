"""Processes by pid and start time, so that a reused pid is never mistaken for the one we knew (Linux /proc)."""

import os
import signal
import time
from pathlib import Path


def process_start(pid: int) -> str:
    """The start time of a process in clock ticks since boot, as text; empty where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return "" if fields[0] == "Z" else fields[19]


def is_process(pid: int, start: str) -> bool:
    """Whether that very process still runs."""
    return start != "" and process_start(pid) == start


def signal_process(pid: int, start: str, number: signal.Signals) -> None:
    """Signals that very process; no error where it is gone."""
    if is_process(pid, start):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def wait_until_gone(pid: int, start: str, seconds: float) -> bool:
    """Waits up to `seconds` for that very process to end; answers whether it did."""
    deadline = time.monotonic() + seconds
    while is_process(pid, start):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
