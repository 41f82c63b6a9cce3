"""The agent of the crash sweep: the built-in one under a lock that shows if two ever work on a task at once."""

import fcntl
import os
import runpy
import sys
from pathlib import Path

folder = Path(os.environ["NANOCLAW_GROUP_DIR"]) / "locks"
folder.mkdir(exist_ok=True)
lock = (folder / f"{os.environ['NANOCLAW_TASK_ID']}.lock").open("w")  # held until this process is gone
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    with (folder / "overlaps").open("a") as overlaps:
        overlaps.write(f"{os.environ['NANOCLAW_ATTEMPT']}\n")
    sys.exit("another attempt works on this task")
runpy.run_module("nanoclaw_agent.reference", run_name="__main__", alter_sys=True)
