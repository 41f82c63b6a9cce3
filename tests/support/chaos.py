"""Kills services and agents at random moments, start-up and recovery included; every choice comes from one seed."""

import asyncio
import contextlib
import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path

from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import read_state

AGENT = "agent"


@dataclass
class Chaos:
    """The killer. kills: what was killed, in order."""

    home: Path
    random: random.Random
    kills: list[str] = field(default_factory=list)

    async def rage(self, moments: int) -> None:
        """Kills something at each of so many moments; now and then the same service again while it starts."""
        while len(self.kills) < moments:
            await asyncio.sleep(self.random.uniform(0.2, 3.0))
            victim = self.random.choice([*(service.name for service in SERVICES), AGENT])
            killed = self._kill_agent() if victim == AGENT else self._kill(victim)
            if killed and victim != AGENT and self.random.random() < 0.3:
                await self._again(victim)

    def _kill(self, service: str) -> int:
        pid, _start = read_state(self.home).get(service, (0, ""))
        if not pid:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills.append(service)
        return pid

    async def _again(self, service: str) -> None:
        """Waits for the service's next process and kills it while it starts or recovers."""
        for _ in range(200):
            await asyncio.sleep(0.02)
            if read_state(self.home).get(service):
                await asyncio.sleep(self.random.uniform(0.0, 0.6))
                self._kill(service)
                return

    def _kill_agent(self) -> int:
        agents = [pid for pid in self._processes() if b"sweep_agent.py" in _cmdline(pid)]
        if not agents:
            return 0
        pid = self.random.choice(sorted(agents))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills.append(AGENT)
        return pid

    @staticmethod
    def _processes() -> list[int]:
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
