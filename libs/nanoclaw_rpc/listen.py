"""Where a server listens: unix sockets of the owner's, loopback, and beyond with TLS, or in clear text if told to."""

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path

import grpc

from nanoclaw_core.addresses import host_and_port, is_loopback
from nanoclaw_core.errors import Kind, NanoclawError

_LONGEST_PATH = 107  # sun_path, without its final zero


class UnixListener:
    """Holds a socket path: a lock file beside it keeps every other server off, also while it starts."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path = path
        self._mode = mode
        self._lock: int | None = None

    def bind(self, server: grpc.aio.Server) -> str:
        """Binds the server to the path. Raises ADDRESS_IN_USE, INVALID_ADDRESS."""
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            raise _invalid(str(self.path), f"is longer than {_LONGEST_PATH} bytes", "choose a shorter NANOCLAW_HOME")
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        try:
            self._remove_stale()
            before = os.umask(0o177)  # never open wider than ours, not even between bind and chmod
            try:
                _add_port(server, f"unix:{self.path}")
            finally:
                os.umask(before)
            self.path.chmod(self._mode)
        except BaseException:
            self.release()
            raise
        return f"unix:{self.path}"

    def release(self) -> None:
        """Lets the path go; call when the server has stopped."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        path = self.path.with_name(self.path.name + ".lock")
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise _in_use(f"unix:{self.path}") from None

    def _remove_stale(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise _invalid(str(self.path), "exists and is no socket", "move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.path))
            except (ConnectionRefusedError, FileNotFoundError):
                with contextlib.suppress(FileNotFoundError):
                    self.path.unlink()
                return
            except OSError as error:
                raise _in_use(f"unix:{self.path}") from error
        raise _in_use(f"unix:{self.path}")


def bind_tcp(
    server: grpc.aio.Server, address: str, *, allow_remote: bool, credentials: grpc.ServerCredentials | None = None
) -> str:
    """Binds `host:port` (0 takes a free port) and answers what was bound. credentials: TLS; None: clear text.

    Raises NOT_LOOPBACK for clear text beyond this machine that is not allowed, ADDRESS_IN_USE, INVALID_ADDRESS.
    """
    at = host_and_port(address)
    if at is None:
        raise _invalid(address, "is neither unix:path nor host:port", "write it like 127.0.0.1:50051")
    if credentials is None and not allow_remote and not is_loopback(at[0]):
        raise NanoclawError(
            Kind.INVALID,
            "NOT_LOOPBACK",
            f"{address} listens beyond this machine, without encryption",
            next_step="set NANOCLAW_TLS_ENABLED=1, or listen on 127.0.0.1, or set the service's ALLOW_REMOTE=1",
            address=address,
        )
    return f"{address.rpartition(':')[0]}:{_add_port(server, address, credentials)}"


def _add_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    try:
        port = (
            server.add_secure_port(address, credentials)
            if credentials is not None
            else server.add_insecure_port(address)
        )
    except RuntimeError:
        port = 0
    if port == 0:
        raise _in_use(address)
    return port


def _in_use(address: str) -> NanoclawError:
    return NanoclawError(
        Kind.UNAVAILABLE,
        "ADDRESS_IN_USE",
        f"somebody else listens on {address}",
        next_step="stop what listens there, or listen elsewhere: `nanoclaw up --port`, or the service's LISTEN setting",
        address=address,
    )


def _invalid(address: str, what: str, next_step: str) -> NanoclawError:
    return NanoclawError(Kind.INVALID, "INVALID_ADDRESS", f"{address} {what}", next_step=next_step, address=address)
