"""Directories held by descriptor: made, owned and written to without ever following what an agent put in the way."""

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from itertools import count

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose the files are. None: whoever runs the gateway.

    gateway_uid: owns what the gateway makes; given only by root. agents_gid: the group that agents run under.
    """

    gateway_uid: int | None = None
    agents_gid: int | None = None

    def take(self, descriptor: int, mode: int, *, private: bool = False) -> None:
        """Gives a file or directory its mode, and its owners where they are configured. private: not the agents'."""
        uid = self.gateway_uid if self.gateway_uid is not None and os.geteuid() == 0 else -1
        gid = -1 if private or self.agents_gid is None else self.agents_gid
        if uid != -1 or gid != -1:
            os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)


def open_folder(parent: int, name: str) -> int:
    """A descriptor of an existing directory. Raises OSError for a symlink and all else that is none."""
    return os.open(name, _OPEN, dir_fd=parent)


def keep_folder(parent: int, name: str) -> int:
    """A descriptor of a directory that others use, too: made where it is missing, else left as it is."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o750, dir_fd=parent)
    return open_folder(parent, name)


def make_folder(parent: int, name: str, mode: int, owners: Owners, *, private: bool = False) -> int:
    """A descriptor of a directory that now exists, with that mode; what stands there and is none is moved aside."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    try:
        descriptor = open_folder(parent, name)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        _move_aside(parent, name)
        os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = open_folder(parent, name)
    try:
        owners.take(descriptor, mode, private=private)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def put(folder: int, name: str, content: bytes, mode: int, owners: Owners, *, private: bool = False) -> None:
    """Makes a file appear at once with its whole content, in place of what was there. Raises OSError."""
    temporary = f".{name[:120]}.{next(_numbers)}.tmp"
    descriptor = _create(folder, temporary, mode)
    try:
        try:
            owners.take(descriptor, mode, private=private)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        try:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            _move_aside(folder, name)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        remove(folder, temporary)
        raise


def _create(folder: int, name: str, mode: int) -> int:
    try:
        return os.open(name, _NEW, mode, dir_fd=folder)
    except FileExistsError:  # left over from a process that was killed
        os.unlink(name, dir_fd=folder)
        return os.open(name, _NEW, mode, dir_fd=folder)


def _move_aside(folder: int, name: str) -> None:
    """Where agents run as our own user they can put anything in the way; it must not keep a mailbox from working."""
    os.rename(name, f"{name[:200]}.aside.{next(_numbers)}.{os.getpid()}", src_dir_fd=folder, dst_dir_fd=folder)


def remove(folder: int, name: str) -> bool:
    """Removes an entry that is no directory; False if there is none, or it can't be removed."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True


def matching(folder: int, suffix: str, most: int) -> list[tuple[str, os.stat_result]]:
    """Entries whose names end so, and what each is, nothing followed; the one renamed in first comes first.

    Undecodable bytes in names are surrogates. At most `most`, of whichever the directory gives first.
    """
    found: list[tuple[str, os.stat_result]] = []
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.name.endswith(suffix):
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
                if len(found) >= most:
                    break
    return sorted(found, key=lambda item: (item[1].st_ctime_ns, item[0]))


def exists(folder: int, name: str) -> bool:
    """Whether there is an entry of that name, whatever it is."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def same(descriptor: int, parent: int, name: str) -> bool:
    """Whether a held directory is still the one that its parent shows under the name."""
    try:
        shown = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    held = os.fstat(descriptor)
    return (shown.st_dev, shown.st_ino) == (held.st_dev, held.st_ino) and stat.S_ISDIR(shown.st_mode)


def close(*descriptors: int) -> None:
    """Closes descriptors, whatever state they are in."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
