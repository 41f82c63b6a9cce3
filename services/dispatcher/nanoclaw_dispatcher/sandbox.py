"""The sandbox: bubblewrap with an attempt's mounts only, no network, no capabilities, no sight of other processes."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_dispatcher import agent_process, code_mounts
from nanoclaw_dispatcher.groups import Group, Mount
from nanoclaw_dispatcher.workspace import (
    AGENT_UID,
    INSTRUCTIONS,
    WORKSPACE_GROUP,
    WORKSPACE_IPC,
    WORKSPACE_RELAY,
    check_mount,
    copy_instructions,
    mount_refused,
)

# Where root runs us, the kernel takes an agent for root when it comes to the files of /proc, whatever it is called
# inside, and bubblewrap covers only some of them: what is listed here, and is there, is shown read-only, or empty.
_PROC_READ_ONLY = ("acpi", "asound", "fs", "mtrr", "pressure", "scsi", "sys")
_PROC_EMPTY = ("kcore", "keys", "latency_stats", "sched_debug", "timer_list")

_PROBE_SECONDS = 10.0
_RESERVED = ("/workspace", "/proc", "/dev", "/tmp", "/etc", code_mounts.KIT_PARENT)  # noqa: S108

# Programs want to look up who they are.
_ACCOUNT = {
    "passwd": f"agent:x:{AGENT_UID}:{AGENT_UID}:agent:{WORKSPACE_GROUP}:/bin/sh\n",
    "group": f"agent:x:{AGENT_UID}:\n",
}

# In the probe: are we somebody else, without a network, on a root that can't be written? Then which flag of this
# shell's ulimit sets the number of processes, which can only be limited inside: outside it counts all of the user's.
_PROBE = f"""
[ "$(id -u)" = {AGENT_UID} ] || exit 2
[ "$(grep -c : /proc/net/dev)" = 1 ] || exit 3
for file in /x /usr/x /proc/sys/kernel/core_pattern; do ! (: >> $file) 2>/dev/null || exit 4; done
if (ulimit -u 64) 2>/dev/null; then echo u; elif (ulimit -p 64) 2>/dev/null; then echo p; else echo -; fi
"""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that was really tried. program: bubblewrap's path. extra: arguments that this version knows.
    process_limit: the flag of the sandbox's shell for the number of processes, `-` for none."""

    program: str
    extra: tuple[str, ...]
    process_limit: str

    def command(
        self,
        group: Group,
        command: Iterable[str],
        *,
        group_dir: Path,
        mailbox: Path,
        state: Path,
        writing: Path,
        relay: Path | None = None,
    ) -> list[str]:
        """The command line that runs `command` for the group in a sandbox of its own. Raises OSError.

        state: a folder of the attempt that no agent can reach, and `writing` is where it lies until the attempt is
        complete: the group's CLAUDE.md is copied there, since the original lies where agents write. relay: its folder,
        shown read-only.
        """
        arguments = [
            *_base(self.program, self.extra, group.file_size_mb),
            *("--sync-fd", str(agent_process.LOCK_FD), "--json-status-fd", str(agent_process.STATUS_FD)),
            *("--bind", str(group_dir), WORKSPACE_GROUP, "--bind", str(mailbox), WORKSPACE_IPC),
        ]
        if copy_instructions(group_dir, writing):
            arguments += ["--ro-bind", str(state / INSTRUCTIONS), f"{WORKSPACE_GROUP}/{INSTRUCTIONS}"]
        for name, line in _ACCOUNT.items():
            (writing / name).write_text(line)
            arguments += ["--ro-bind", str(state / name), f"/etc/{name}"]
        if relay is not None:  # its folder, for a new broker makes a new socket in it
            arguments += ["--ro-bind", str(relay), WORKSPACE_RELAY]
        for mount in group.mounts:
            arguments += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.target]
        # The kernel does not count root's processes, whatever they are called inside.
        limit = f"ulimit -{self.process_limit} {group.pids}; " if self.process_limit != "-" and os.getuid() else ""
        # A shell's exit code tells a command that is not there (127) from one that fails; bubblewrap's does not.
        shell = ("/bin/sh", "-c", f'{limit}exec "$@"', "agent")
        return [*arguments, *_CLOSE, "--chdir", WORKSPACE_GROUP, "--", *shell, *command]


def find(home: Path) -> tuple[Sandbox | None, str]:
    """Tries sandboxes, from the strictest on; None where none works, with the reason. Takes some 20 ms."""
    if inside := code_mounts.shown(home):
        return None, f"{home} lies within {inside}, which agents see"
    program = shutil.which("bwrap")
    if program is None:
        return None, "bubblewrap (bwrap) is not installed"
    why = ""
    environment = {"PATH": code_mounts.SEARCH_PATH}
    for extra in (("--disable-userns",), ()):
        probe = [*_base(program, extra, 1), *_CLOSE, "--chdir", "/", "--", "/bin/sh", "-c", _PROBE]
        try:
            done = subprocess.run(probe, capture_output=True, timeout=_PROBE_SECONDS, env=environment, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, str(error)
        if done.returncode == 0:
            return Sandbox(program, extra, done.stdout.decode().strip()), ""
        why = done.stderr.decode("utf-8", "replace").strip() or f"the probe failed ({done.returncode})"
    return None, why


def check_mounts(mounts: Iterable[Mount], home: Path) -> None:
    """Refuses, with PRECONDITION MOUNT_REFUSED, a mount that is not there, shows NANOCLAW_HOME, or hides what the
    sandbox puts in place."""
    real_home = os.path.realpath(home)
    for mount in mounts:
        source = os.path.realpath(mount.source)
        if not Path(source).exists():
            raise mount_refused(mount, "its source is not there")
        check_mount(mount, source, real_home, _RESERVED)


_CLOSE = ("--remount-ro", "/dev", "--remount-ro", "/")


def _base(program: str, extra: Iterable[str], file_size_mb: int) -> list[str]:
    size = str(file_size_mb << 20)
    return [
        *(program, "--unshare-user", "--unshare-all", *extra, "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--uid", str(AGENT_UID), "--gid", str(AGENT_UID), "--hostname", "agent"),
        *("--size", size, "--tmpfs", "/tmp"),  # noqa: S108 — first: our own code may lie below it
        *code_mounts.system(),
        *("--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"),  # noqa: S108
        *(_proc_covers() if os.getuid() == 0 else ()),
    ]


@functools.cache
def _proc_covers() -> tuple[str, ...]:
    covers = [(f"/proc/{name}", f"/proc/{name}") for name in _PROC_READ_ONLY]
    covers += [("/dev/null", f"/proc/{name}") for name in _PROC_EMPTY]
    return tuple(word for source, target in covers if Path(target).exists() for word in ("--ro-bind", source, target))
