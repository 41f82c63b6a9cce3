"""A mailbox on disk: what an agent finds at /workspace/ipc, and the folders around mailboxes that no agent sees."""

import asyncio
import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_ipc_gateway import folders
from nanoclaw_ipc_gateway.claims import Claim, Claims
from nanoclaw_ipc_gateway.folders import Owners
from nanoclaw_telemetry import TraceContext

SECRET = ".ipc_secret"  # noqa: S105 - a file's name
RESERVED = frozenset({"errors"})
"""What can't be a group's name: ipc/errors/ is something else."""

_AGENTS = 0o770
_OURS = 0o750
_PRIVATE = 0o700
_FILE = 0o640


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose mailbox it is; established by the directory, never by what a file says.

    number: of its row. attempt_id, task_id: of a dispatch; empty for a group's standing one. trace: the dispatch's.
    """

    number: int
    group: str
    attempt_id: str = ""
    task_id: str = ""
    trace: TraceContext | None = None

    @property
    def principal(self) -> str:
        """Who speaks in it."""
        return f"group:{self.group}"


class Home:
    """NANOCLAW_HOME, held by descriptors: every path below is opened from here, one component at a time."""

    def __init__(self, path: Path, owners: Owners) -> None:
        self.path = path
        self.owners = owners
        path.mkdir(parents=True, exist_ok=True)
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._ipc = folders.keep_folder(self._root, "ipc")
        self._attempts = folders.keep_folder(self._root, "attempts")
        self.errors = folders.make_folder(self._ipc, "errors", _PRIVATE, owners, private=True)
        self.outgoing = folders.make_folder(self._ipc, ".outgoing", _PRIVATE, owners, private=True)
        self.claims = Claims(folders.make_folder(self._ipc, ".claimed", _PRIVATE, owners, private=True))

    async def own(self, seconds: float) -> None:
        """Makes sure that nobody else takes in files here, waiting for one that is about to end.

        Raises PRECONDITION ALREADY_RUNNING. The hold ends with the process, however that ends.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            try:
                fcntl.flock(self.claims.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if loop.time() >= end:
                    raise NanoclawError(
                        Kind.PRECONDITION,
                        "ALREADY_RUNNING",
                        f"another gateway runs on {self.path}",
                        next_step="stop that one first",
                    ) from None
            await asyncio.sleep(0.05)

    def path_of(self, origin: Origin) -> Path:
        """The directory to mount."""
        if origin.attempt_id:
            return self.path / "attempts" / origin.attempt_id / "ipc"
        return self.path / "ipc" / origin.group

    def open(self, origin: Origin) -> "Mailbox":
        """The mailbox, made where it is missing. Raises OSError."""
        if not origin.attempt_id:
            if origin.group in RESERVED:
                raise NanoclawError(
                    Kind.INVALID,
                    "RESERVED_NAME",
                    f"no group can be called {origin.group!r}",
                    next_step="give the group another name in config/groups.toml",
                )
            return Mailbox(origin, os.dup(self._ipc), origin.group, self.owners)
        return Mailbox(origin, folders.keep_folder(self._attempts, origin.attempt_id), "ipc", self.owners)

    def close(self) -> None:
        """Lets go of everything."""
        folders.close(self.claims.folder, self.outgoing, self.errors, self._attempts, self._ipc, self._root)


class Mailbox:
    """One mailbox, held by descriptors of its directories."""

    def __init__(self, origin: Origin, parent: int, name: str, owners: Owners) -> None:
        self.origin = origin
        self._parent = parent
        self._name = name
        self._owners = owners
        self._held: dict[str, int] = {}
        try:
            self.restore()
            self.secret = self._read_or_make_secret()
        except BaseException:
            self.close()
            raise

    def folder(self, name: str) -> int:
        """The descriptor of tasks, messages, responses or input."""
        return self._held[name]

    def restore(self) -> bool:
        """Makes the directories that are not there (any more); True if one had to be opened anew."""
        changed = self._restore(self._parent, self._name, "", _OURS)
        root = self._held[""]
        for name, mode in (("tasks", _AGENTS), ("messages", _AGENTS), ("input", _AGENTS), ("responses", _OURS)):
            changed |= self._restore(root, name, name, mode)
        return changed

    def respond(self, name: str, answer: bytes) -> None:
        """Makes `responses/{name}.json` appear. Raises OSError."""
        folders.put(self._held["responses"], f"{name}.json", answer, _FILE, self._owners)

    def respond_in(self, claims: Claims, claim: Claim, name: str, answer: bytes) -> None:
        """The same with the request's own file; see Claims.become. Raises OSError."""
        claims.become(claim, answer, self._held["responses"], f"{name}.json", _FILE, self._owners)

    def show(self, name: str, snapshot: bytes) -> None:
        """Replaces a snapshot. Raises OSError."""
        folders.put(self._held[""], name, snapshot, _FILE, self._owners)

    def shows(self, name: str) -> bool:
        """Whether there is a snapshot of that name."""
        return folders.exists(self._held[""], name)

    @property
    def is_open(self) -> bool:
        """Whether its directories are held."""
        return bool(self._held)

    def close(self) -> None:
        """Lets go of the directories; they stay."""
        folders.close(*self._held.values(), self._parent)
        self._held.clear()

    def _restore(self, parent: int, name: str, key: str, mode: int) -> bool:
        held = self._held.get(key)
        if held is not None and folders.same(held, parent, name):
            return False
        made = folders.make_folder(parent, name, mode, self._owners)
        if held is not None:
            folders.close(held)
        self._held[key] = made
        return True

    def _read_or_make_secret(self) -> str:
        root = self._held[""]
        try:
            descriptor = os.open(SECRET, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
            try:
                secret = os.read(descriptor, 65).decode("ascii")
            finally:
                os.close(descriptor)
            if len(secret) == 64 and set(secret) <= set("0123456789abcdef"):
                return secret
        except (OSError, UnicodeDecodeError):
            pass
        secret = secrets.token_hex(32)
        folders.put(root, SECRET, secret.encode(), _FILE, self._owners)
        return secret
