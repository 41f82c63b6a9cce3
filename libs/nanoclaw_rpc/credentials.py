"""Bearer tokens: who has which, kept as SHA-256 in `credentials.json`; made at first start, read again on change."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from nanoclaw_core.errors import Kind, NanoclawError, invalid, not_found
from nanoclaw_core.principal import Caller, Role
from nanoclaw_rpc import private

SERVICES = ("governance", "broker", "dispatcher", "gateway", "ops")
FOUNDER = "operator:founder"

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOOK_SECONDS = 0.05
_PREFIX = "nct_"  # nanoclaw_telemetry.scrub knows it

log = structlog.get_logger("nanoclaw.credentials")


class Credentials:
    """The tokens' digests of a secrets directory.

    `credentials.json` holds {"principals": [{"principal", "role", "sha256"}]}; a principal may have several entries, so
    that a token can be changed without a gap. While the file can't be read nobody is let in (UNAVAILABLE).
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "credentials.json"
        self._directory = directory
        self._stamp: tuple[int, int, int] | None = None
        self._callers: dict[bytes, Caller] | None = None
        self._principals: dict[str, Caller] = {}
        self._look_again = 0.0

    @classmethod
    def open(cls, directory: Path, *, own: str = "") -> "Credentials":
        """The credentials of a directory; makes the founder's and the services' where missing (0600, under a lock).

        own: the service that asks, which then needs no other's token file: in a container it is given its own alone.
        """
        credentials = cls(directory)
        if credentials._missing(own):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with credentials._locked():
                entries = credentials._read()
                for principal in credentials._missing(own):
                    entries = credentials._issue(entries, principal, Role.ADMIN if principal == FOUNDER else Role.NONE)
                credentials._write(entries)
        return credentials

    def identify(self, token: str) -> Caller | None:
        """Who has the token, or None. Raises UNAVAILABLE while the file can't be read.

        A new token is known at once, a revoked one forgotten within 50 ms: looking at the file costs a system call,
        which is felt at thousands of calls a second.
        """
        digest = hashlib.sha256(token.encode()).digest()
        caller = self._callers.get(digest) if self._callers is not None else None
        return caller if caller is not None and self._fresh() else self._looked().get(digest)

    def find(self, principal: str) -> Caller | None:
        """Who a certificate is of, or None for who has no entry (any more). Raises UNAVAILABLE, as `identify` does."""
        caller = self._principals.get(principal) if self._callers is not None else None
        if caller is None or not self._fresh():
            self._looked()
            caller = self._principals.get(principal)
        return caller

    def _fresh(self) -> bool:
        return time.monotonic() < self._look_again

    def _looked(self) -> dict[bytes, Caller]:
        self._look_again = time.monotonic() + _LOOK_SECONDS
        self._look()
        if self._callers is None:
            raise NanoclawError(
                Kind.UNAVAILABLE,
                "CREDENTIALS_UNREADABLE",
                "the service cannot read its credentials",
                next_step="an operator must repair secrets/credentials.json",
            )
        return self._callers

    def token_file(self, principal: str) -> Path:
        """Where the token of an operator or service lies."""
        kind, _, name = principal.partition(":")
        return self._directory / f"{kind}s" / f"{name}.token"

    def add_operator(self, name: str, role: Role) -> Path:
        """Makes a token for a new operator and answers its file. Raises OPERATOR_EXISTS."""
        if not _NAME.fullmatch(name):
            raise invalid("name", "must match [a-z0-9][a-z0-9_.-]{0,63}", "choose another name")
        if role is Role.NONE:
            raise invalid("role", "an operator needs a role", "choose admin, approver or viewer")
        principal = f"operator:{name}"
        with self._locked():
            entries = self._read()
            if any(entry["principal"] == principal for entry in entries):
                raise NanoclawError(
                    Kind.CONFLICT,
                    "OPERATOR_EXISTS",
                    f"there is an operator {name!r}",
                    next_step="remove it first, or choose another name",
                    name=name,
                )
            self.token_file(principal).unlink(missing_ok=True)
            self._write(self._issue(entries, principal, role))
        return self.token_file(principal)

    def remove(self, principal: str) -> None:
        """Takes all tokens of a principal back, at once. Raises PRINCIPAL_NOT_FOUND."""
        with self._locked():
            entries = self._read()
            kept = [entry for entry in entries if entry["principal"] != principal]
            if len(kept) == len(entries):
                raise not_found("principal", principal, "name", _here(entries))
            self._write(kept)
            self.token_file(principal).unlink(missing_ok=True)

    def _missing(self, own: str) -> list[str]:
        """Who lacks an entry; a service also without its file, for it can't work without. A founder may hide theirs."""
        known = {entry["principal"] for entry in self._read()}
        services = [f"service:{name}" for name in SERVICES]
        needed = {own} if own else set(services)
        lacking = [one for one in services if one not in known or (one in needed and not self.token_file(one).exists())]
        return lacking if FOUNDER in known else [FOUNDER, *lacking]

    def _issue(self, entries: list[dict[str, str]], principal: str, role: Role) -> list[dict[str, str]]:
        path = self.token_file(principal)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            private.write(path, _PREFIX + secrets.token_urlsafe(32) + "\n")
        digest = hashlib.sha256(path.read_text().strip().encode()).hexdigest()
        kept = [entry for entry in entries if entry["principal"] != principal]
        return [*kept, {"principal": principal, "role": role.value, "sha256": digest}]

    def _read(self) -> list[dict[str, str]]:
        try:
            return _entries(self._path.read_text())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise NanoclawError(
                Kind.INVALID,
                "CREDENTIALS_MALFORMED",
                f"{self._path} is malformed: {error}",
                next_step="repair it, or remove it to have new tokens made",
            ) from None

    def _write(self, entries: list[dict[str, str]]) -> None:
        private.write(self._path, json.dumps({"principals": entries}, indent=2) + "\n")

    def _look(self) -> None:
        """Reads the file again if it is another than before."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._stamp:
                return
            self._callers, self._stamp = None, stamp
            self._callers = {
                bytes.fromhex(entry["sha256"]): Caller(entry["principal"], Role(entry["role"]))
                for entry in _entries(self._path.read_text())
            }
            self._principals = {caller.principal: caller for caller in self._callers.values()}
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._callers, self._stamp = None, None
            log.error("credentials unreadable", path=str(self._path), error=str(error))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._directory / ".credentials.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _here(entries: list[dict[str, str]]) -> str:
    return f"here are {', '.join(sorted({entry['principal'] for entry in entries})) or 'none'}"


def _entries(text: str) -> list[dict[str, str]]:
    """The file's entries. Raises ValueError for anything that is not exactly as it must be."""
    document: Any = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("principals"), list):
        raise ValueError('no list "principals"')
    for entry in document["principals"]:
        if not isinstance(entry, dict):
            raise ValueError("an entry is not an object")
        principal, role, digest = (str(entry.get(key, "")) for key in ("principal", "role", "sha256"))
        kind, _, name = principal.partition(":")
        if not _NAME.fullmatch(name) or not (
            (kind == "operator" and role in {"admin", "approver", "viewer"})
            or (kind == "service" and name in SERVICES and role == "")
        ):
            raise ValueError(f"principal {principal!r} with role {role!r}")
        if not _SHA256.fullmatch(digest):
            raise ValueError(f"sha256 of {principal!r}")
    return [
        {key: str(entry.get(key, "")) for key in ("principal", "role", "sha256")} for entry in document["principals"]
    ]
