"""A group of agents: what runs for it, with what, and within which limits."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


class Role(enum.StrEnum):
    """What a group is for."""

    MAIN = "main"
    EXECUTOR = "executor"
    APPROVER = "approver"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path that an agent sees besides its own folders. Both absolute; read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """One group. Seconds, MiB and cores; the meaning of each key stands in groups.toml."""

    name: str
    role: Role
    command: tuple[str, ...] = ()
    runtime: str = "process"
    image: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mounts: tuple[Mount, ...] = ()
    cpu: float = 1.0
    memory_mb: int = 1024
    pids: int = 256
    file_size_mb: int = 256
    wall_timeout: float = 3600.0
    idle_timeout: float = 600.0
    grace: float = 10.0
    wip_limit: int = 3
    wip_hard: bool = False
    relay: bool = False

    @property
    def builtin(self) -> bool:
        """Whether the built-in reference agent runs for it."""
        return not self.command

    @property
    def is_main(self) -> bool:
        """Whether it is main."""
        return self.role is Role.MAIN
