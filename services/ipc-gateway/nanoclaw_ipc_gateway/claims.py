"""Claimed files: out of reach of the agent that wrote them, named by what must not be forgotten, read once and safely.

A claim's name in `ipc/.claimed/` carries its identity, its mailbox and the name to answer under. So a crash at any
point leaves either the file where the agent put it or all that is needed to go on; no row has to be written first.
"""

import errno
import os
import re
import stat
from itertools import count
from typing import NamedTuple

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import new_ulid
from nanoclaw_ipc_gateway import folders
from nanoclaw_ipc_gateway.strict_json import MAX_BYTES, malformed

SOURCES = {"t": "tasks", "m": "messages", "s": "submit"}
_LETTERS = {source: letter for letter, source in SOURCES.items()}
_CLAIM = re.compile(r"([0-9A-Z]{26})-(\d{1,18})-([tms])(\d{1,12})-([A-Za-z0-9._-]{0,128})")
_BASE = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]{0,127})\.json")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
_numbers = count(1)


class Claim(NamedTuple):
    """One claimed file.

    id: its ULID. mailbox: the number of its mailbox. source: tasks, messages or submit. number: rises with every claim
    of this process. base: the file's name without `.json`, to be answered under; empty where it is not fit for that.
    file_name: as it was; not known any more after a crash.
    """

    id: str
    mailbox: int
    source: str
    number: int
    base: str
    file_name: str = ""

    @property
    def name(self) -> str:
        """Its name in the folder of claims."""
        return f"{self.id}-{self.mailbox}-{_LETTERS[self.source]}{self.number}-{self.base}"

    @property
    def shown(self) -> str:
        """The file's name for people."""
        return shown(self.file_name or (f"{self.base}.json" if self.base else ""))


def base_of(file_name: str) -> str:
    """The name that a request file can be answered under, or empty: 1 to 128 of [A-Za-z0-9._-], no leading dot."""
    match = _BASE.fullmatch(file_name)
    return match[1] if match else ""


def shown(file_name: str) -> str:
    """A file's name for people: printable ASCII, the rest escaped, at most 200 characters."""
    return file_name.encode("ascii", "backslashreplace").decode().translate(_ESCAPES)[:200]


def parse(name: str) -> Claim | None:
    """The claim that a file in the folder of claims is, or None."""
    match = _CLAIM.fullmatch(name)
    return Claim(match[1], int(match[2]), SOURCES[match[3]], int(match[4]), match[5]) if match else None


def again(claim_id: str, mailbox: int, source: str, base: str) -> Claim:
    """A claim under an identity that is given."""
    return Claim(claim_id, mailbox, source, next(_numbers), base)


class Claims:
    """The folder `ipc/.claimed/`, by descriptor."""

    def __init__(self, folder: int) -> None:
        self.folder = folder

    def take(self, source_folder: int, file_name: str, mailbox: int, source: str) -> Claim:
        """Claims a file by renaming it. Raises FileNotFoundError if it is gone, OSError if it can't be had."""
        claim = Claim(new_ulid(), mailbox, source, next(_numbers), base_of(file_name), file_name)
        os.rename(file_name, claim.name, src_dir_fd=source_folder, dst_dir_fd=self.folder)
        return claim

    def take_back(self, kept: int, name: str, claim: Claim) -> None:
        """Claims a file from the quarantine. Raises FileNotFoundError if it is not kept any more."""
        os.rename(name, claim.name, src_dir_fd=kept, dst_dir_fd=self.folder)

    def place(self, content: bytes, claim_id: str, mailbox: int) -> Claim:
        """A claim on content that came by RPC; where it names no request_id it is answered under the claim's id."""
        claim = again(claim_id, mailbox, "submit", claim_id)
        folders.put(self.folder, claim.name, content, 0o600, folders.Owners())
        return claim

    def read(self, claim: Claim) -> bytes:
        """A claimed file's content.

        Raises NanoclawError NOT_A_FILE, LINKED (it has a second name), TOO_LARGE (nothing was read), UNREADABLE.
        Nothing here can block, and nothing is opened that is not a regular file.
        """
        try:
            _check(os.stat(claim.name, dir_fd=self.folder, follow_symlinks=False))
            descriptor = os.open(claim.name, _READ, dir_fd=self.folder)
        except OSError as error:
            raise _unreadable(error) from None
        try:
            _check(os.fstat(descriptor))
            parts = []
            size = 0
            while part := os.read(descriptor, MAX_BYTES + 1 - size):
                parts.append(part)
                size += len(part)
        except OSError as error:
            raise _unreadable(error) from None
        finally:
            os.close(descriptor)
        if size > MAX_BYTES:
            raise malformed("TOO_LARGE", f"it has more than {MAX_BYTES} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def stamp(self, claim: Claim) -> tuple[int, ...]:
        """What changes whenever the file does; its size first, 0 where it is no file any more."""
        try:
            found = os.stat(claim.name, dir_fd=self.folder, follow_symlinks=False)
        except OSError:
            return (0,)
        return (found.st_size, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns)

    def become(self, claim: Claim, content: bytes, folder: int, name: str, mode: int, owners: folders.Owners) -> None:
        """Makes a claimed file the answer to itself: new content, the gateway's, renamed to where the agent looks.

        So a request costs no new inode, and no removed one: file systems that keep recently removed inodes apart
        (ext4 does, for minutes) get slow at making files where many are removed. The file never leaves its mailbox;
        an agent that still holds it open can spoil its own answer, and nobody else's. Raises OSError, with the claim
        still there and its content perhaps gone, so what it came to must have been recorded before.
        """
        descriptor = os.open(claim.name, _WRITE, dir_fd=self.folder)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise OSError(errno.EMLINK, "not ours alone")
            owners.take(descriptor, mode)
            written = 0
            while written < len(content):
                written += os.pwrite(descriptor, content[written:], written)
            os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)
        os.rename(claim.name, name, src_dir_fd=self.folder, dst_dir_fd=folder)

    def discard(self, claim: Claim) -> None:
        """Removes a claimed file. A directory that was slipped in is no claim from then on."""
        try:
            os.unlink(claim.name, dir_fd=self.folder)
        except IsADirectoryError:
            os.rename(claim.name, f"directory-{claim.id}", src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except FileNotFoundError:
            pass

    def left(self) -> list[Claim]:
        """The claims that lie there, in the order in which they were made."""
        found = [claim for name in os.listdir(self.folder) if (claim := parse(name))]  # noqa: PTH208
        return sorted(found, key=lambda claim: (claim.id[:10], claim.number))


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise malformed("NOT_A_FILE", f"a regular file is needed, not {_nature(found.st_mode)}")
    if found.st_nlink != 1:
        raise malformed("LINKED", "the file has another name somewhere; write a file of its own")
    if found.st_size > MAX_BYTES:
        raise malformed("TOO_LARGE", f"{found.st_size} bytes are more than {MAX_BYTES}")


def _nature(mode: int) -> str:
    for test, noun in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return noun
    return "a device"


def _unreadable(error: OSError) -> NanoclawError:
    if error.errno == errno.ENOENT:
        return NanoclawError(
            Kind.NOT_FOUND, "FILE_GONE", "the claimed file is gone", next_step="write the request again"
        )
    return NanoclawError(
        Kind.INVALID,
        "UNREADABLE",
        f"the file can't be read: {os.strerror(error.errno or 0).lower()}",
        next_step="let the group read the file",
    )
