"""What a shim makes of moments that hardly ever come: widened here until they come each time."""

import asyncio
import subprocess
import sys
from typing import Any

from nanoclaw_dispatcher.runtime import EndReason, RunState

# A shim that sleeps after each look that showed it nothing but output: all that comes meanwhile, it has not seen.
SLOW_SHIM = """
import select, sys, time
from nanoclaw_dispatcher import shim

class Poll:
    def __init__(self):
        self.real, self.first = select_poll(), None
    def register(self, descriptor, events):
        self.first = descriptor if self.first is None else self.first
        self.real.register(descriptor, events)
    def unregister(self, descriptor):
        self.real.unregister(descriptor)
    def poll(self, timeout):
        found = self.real.poll(timeout)
        if [descriptor for descriptor, _ in found] == [self.first]:
            time.sleep(0.4)
        return found

select_poll, select.poll = select.poll, Poll
shim.run(sys.argv[1], lambda result, why: print(result, why, flush=True))
"""


async def test_the_exit_code_is_known_though_it_came_with_the_last_output(sandboxed: Any) -> None:
    """A sandbox says how its agent ended and is gone, both while the shim is busy with the agent's last words."""
    place = sandboxed
    await place.runtime.create(place.spec("a-1", "/bin/sh", "-c", "sleep 0.1; echo bye; exit 5"))
    folder = place.home / "attempts" / "a-1" / "run"
    shim = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", SLOW_SHIM, str(folder)], capture_output=True, text=True, timeout=20
    )
    assert shim.returncode == 0, shim.stderr
    seen = await place.runtime.wait("a-1")
    assert (seen.state, seen.exit_code, seen.reason) == (RunState.EXITED, 5, EndReason.NONE)
    assert await place.runtime.last_lines("a-1") == "bye"
