"""Where attempts and containers meet: paths on both sides of the engine, who may go where, what is never shown."""

import os
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.groups import Group
from nanoclaw_dispatcher.workspace import check_mount, mount_refused, overlaps

LABEL_HOME = "nanoclaw.home"
RUN = "/run/nanoclaw"
"""Where a container finds what is for it alone."""

_RESERVED = ("/workspace", "/proc", "/sys", "/dev", "/tmp", "/etc", RUN)  # noqa: S108


@dataclass(frozen=True, slots=True)
class Site:
    """Where attempts and their containers meet.

    home: NANOCLAW_HOME as we see it. data: the absolute path of the same folder on the engine's machine. prefix: of
    containers' names. image: for groups that name none. agent_uid: user and group inside. socket: the engine's, or
    empty where it is reached by TCP.
    """

    home: Path
    data: str
    prefix: str
    image: str
    agent_uid: int
    socket: str

    @property
    def label(self) -> str:
        """What all our containers are labelled with, and no others."""
        return f"{LABEL_HOME}={self.data}"

    def folder(self, attempt_id: str) -> Path:
        """Where we keep what is to be known of an attempt."""
        return self.home / "attempts" / attempt_id / "container"

    def group_dir(self, group: Group) -> Path:
        """The group's folder, as we see it."""
        return self.home / "groups" / group.name

    def on_engine(self, path: Path) -> str:
        """A path below the home as the engine's machine knows it. Raises PRECONDITION OUTSIDE_HOME."""
        if not path.is_relative_to(self.home):
            raise NanoclawError(
                Kind.PRECONDITION,
                "OUTSIDE_HOME",
                f"{path} does not lie in {self.home}, so no container can be given it",
                next_step="give the gateway and the dispatcher the same NANOCLAW_HOME",
            )
        return str(Path(self.data) / path.relative_to(self.home))


def check_mounts(group: Group, site: Site) -> None:
    """Refuses, with PRECONDITION MOUNT_REFUSED, what would show the house or the engine's socket.

    The engine resolves links on its own machine; where that is ours too, so do we.
    """
    for mount in group.mounts:
        for source in dict.fromkeys([mount.source, os.path.realpath(mount.source)]):
            check_mount(mount, source, site.data, _RESERVED)
            if any(overlaps(source, socket) for socket in _sockets(site)):
                raise mount_refused(mount, "its source shows the socket of the engine, which rules the machine")


def may_enter(path: Path, uid: int) -> bool:
    """Whether user and group `uid` may read a folder and go into it."""
    found = path.stat()
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == uid else 0
    return uid == 0 or found.st_mode >> shift & 0o5 == 0o5


def share(group_dir: Path, uid: int) -> None:
    """Lets agents write in their group's folder. Raises PRECONDITION GROUP_FOLDER_SHUT where we can't."""
    found = group_dir.stat()
    if found.st_uid == uid or (found.st_gid == uid and found.st_mode & 0o070 == 0o070):
        return
    try:
        os.chown(group_dir, -1, uid)
        group_dir.chmod(0o2770)
    except PermissionError as error:
        raise NanoclawError(
            Kind.PRECONDITION,
            "GROUP_FOLDER_SHUT",
            f"{group_dir} can't be given to user {uid}, whom agents run as",
            next_step=f"chgrp {uid} and chmod 2770 it, or set NANOCLAW_DISPATCHER_AGENT_UID to who owns it",
        ) from error


def _sockets(site: Site) -> list[str]:
    known = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"]
    return [*known, site.socket, os.path.realpath(site.socket)] if site.socket else known
