"""Loopback ports for servers that another process starts a moment later."""

import contextlib
import random
import socket
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Ports that nobody has. They lie below those that the kernel gives to whoever dials: of these one may be gone,
    with so many clients on this machine, before its server listens."""
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chance = random.SystemRandom()  # workers that are forked alike, or seeded, must not agree
    with contextlib.ExitStack() as taken:
        found: list[int] = []
        while len(found) < count:
            port = chance.randrange(10_000, max(first_of_kernel, 20_000))
            with contextlib.suppress(OSError):
                taken.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found
