"""The agent's processes as its shim sees them: how they begin, are signalled, and are known to be gone."""

# Descriptors and bare paths: this runs between a fork and an exec.

import contextlib
import ctypes
import fcntl
import os
import re
import resource
import signal
from typing import Any

from nanoclaw_dispatcher import attempt_files as files

STATUS_FD = 3
LOCK_FD = 4
"""Descriptors under which a sandbox finds where to report, and the lock that it has to hold (`--sync-fd`)."""

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""Exit codes of a command that can't be run, and of one that is not there; the shell's."""

PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
prctl = ctypes.CDLL(None, use_errno=True).prctl

_REPORTS = 1 << 12


class AgentProcess:
    """The agent's processes: the one that we started, and every descendant, which become our children when orphaned."""

    def __init__(self, spec: dict[str, Any], lock: int) -> None:
        self._sandboxed = bool(spec["sandboxed"])
        self._status: int | None = None
        self._reports = b""
        self.gone = False
        self.output, output = os.pipe()
        self.status_pipe, status_pipe = os.pipe()
        failure, failed = os.pipe()
        shim = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(spec, shim, output, status_pipe, lock, failed)
        for descriptor in (output, status_pipe, failed):
            os.close(descriptor)
        error = os.read(
            failure, 16
        )  # ends with exec, which closes the other end, or with the reason why there was none
        os.close(failure)
        if error:
            os.waitpid(self.pid, 0)
            raise OSError(int(error), os.strerror(int(error)))

    @property
    def ended(self) -> bool:
        """Whether the agent itself is over; others of its processes may still live."""
        return self._status is not None

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self._status = status
        self.gone = True

    def report(self, chunk: bytes) -> None:
        self._reports = (self._reports + chunk)[-_REPORTS:]

    def _reported(self, member: bytes) -> int | None:
        found = re.search(rb'"%s": *(\d+)' % member, self._reports)
        return int(found[1]) if found else None

    def terminate(self) -> None:
        """SIGTERM to the agent and its process group; inside a sandbox its first process only waits for the others."""
        first = self._reported(b"child-pid") if self._sandboxed else None
        groups = [self.pid] if not self._sandboxed else files.children(first) if first else []
        if not groups:
            self.kill()
        for pid in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(pid), signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all. A sandbox dies with its first process; else what flees its group falls to us, its reaper."""
        if not self.ended and not self._sandboxed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        for pid in files.children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def result(self) -> tuple[int, bool]:
        """The exit code, and whether the agent could not be started."""
        status = os.waitstatus_to_exitcode(self._status or 0)
        code = 128 - status if status < 0 else status
        if self._sandboxed and status > 0 and self._reported(b"exit-code") is None:
            return NOT_EXECUTABLE, True
        return code, code in (NOT_FOUND, NOT_EXECUTABLE)


def _become(spec: dict[str, Any], shim: int, output: int, status: int, lock: int, failed: int) -> None:
    """In the child: never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != shim:
            os._exit(NOT_EXECUTABLE)
        os.setsid()
        stdin = os.memfd_create("stdin")
        os.write(stdin, str(spec["stdin"]).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        # Above the small numbers first, so that none is overwritten before it is copied.
        wanted = [(stdin, 0), (output, 1), (output, 2)]
        if spec["sandboxed"]:
            wanted += [(status, STATUS_FD), (lock, LOCK_FD)]
        else:
            prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        copies = [(_above(source), target) for source, target in wanted]
        failed = _above(failed)
        for copy, target in copies:
            os.dup2(copy, target, inheritable=True)
        for name, value in spec["limits"].items():
            which = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        os.umask(0o022)
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606
    except OSError as error:
        os.write(failed, str(error.errno).encode())
    finally:
        os._exit(NOT_EXECUTABLE)


def _above(descriptor: int, lowest: int = 10) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
