"""What an agent finds below /workspace, whatever runs it: where its folders are mounted, and what may not be shown."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.groups import Mount

WORKSPACE_GROUP = "/workspace/group"
WORKSPACE_IPC = "/workspace/ipc"
WORKSPACE_RELAY = "/workspace/relay"
RELAY_FOLDER, RELAY_SOCKET = "relay", "llm.sock"
"""Beside the attempt's mailbox, and in it: the broker's names."""
INSTRUCTIONS = "CLAUDE.md"
AGENT_UID = 10002
"""User and group of agents."""

_MAX_INSTRUCTIONS = 1 << 20


def relay_socket(folder: str | Path) -> str:
    """The socket of the relay whose folder an agent sees there."""
    return f"{folder}/{RELAY_SOCKET}"


def copy_instructions(group_dir: Path, folder: Path) -> bool:
    """Copies the group's CLAUDE.md, if it is a plain file: an agent may have put a link to a secret in its place."""
    try:
        descriptor = os.open(group_dir / INSTRUCTIONS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return False
        (folder / INSTRUCTIONS).write_bytes(os.read(descriptor, _MAX_INSTRUCTIONS))
        return True
    finally:
        os.close(descriptor)


def check_mount(mount: Mount, source: str, home: str, reserved: Iterable[str]) -> None:
    """Refuses, with PRECONDITION MOUNT_REFUSED, a mount whose source shows anything of `home`, or whose target hides
    what belongs to the sandbox."""
    if overlaps(source, home):
        raise mount_refused(mount, "its source shows files of NANOCLAW_HOME")
    if any(mount.target == taken or mount.target.startswith(taken + "/") for taken in reserved):
        raise mount_refused(mount, "its target belongs to the sandbox")


def overlaps(one: str, other: str) -> bool:
    """Whether one of two normal, absolute paths lies in the other."""
    return os.path.commonpath([one, other]) in (one, other)


def mount_refused(mount: Mount, why: str) -> NanoclawError:
    """MOUNT_REFUSED."""
    return NanoclawError(
        Kind.PRECONDITION,
        "MOUNT_REFUSED",
        f"mount of {mount.source} at {mount.target}: {why}",
        next_step="correct the group's mounts in config/groups.toml",
    )
