"""An engine of a test's own, to be killed, stopped and filled; it goes with the run, however that ends."""

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from engines import client

_numbers = itertools.count(1)
_START_SECONDS = 60.0


class OwnEngine:
    """An engine in `folder`, with so much memory for a disk. Skips the test where none can be.

    It lives in a network of its own, since two engines in one fight over bridges and filters: one that is told to do
    without a bridge begins by removing that of the other. bridges: whether containers get networks; then the ports that
    they publish on `address` can be reached from here.
    """

    def __init__(self, folder: Path, megabytes: int, *, bridges: bool = False) -> None:
        if os.getuid() != 0 or not all(shutil.which(name) for name in ("docker", "dockerd", "ip")):
            pytest.skip("an engine of the test's own needs root, docker, dockerd and ip (iproute2)")
        self.folder = folder
        self.bridges = bridges
        self.network = f"nc{os.getpid()}{next(_numbers)}"
        self.host = f"unix://{folder}/docker.sock"
        self.data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        # A run that is killed can't tidy up, and its engine would keep memory and processors from all that come after.
        heir = [sys.executable, __file__, str(folder), self.network]
        none = subprocess.DEVNULL
        self._heir = subprocess.Popen(heir, stdin=subprocess.PIPE, stdout=none, stderr=none, start_new_session=True)
        try:
            self.address = self._make_network()
            self.data.mkdir(parents=True)
            size = f"size={megabytes}m"
            _run("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.data))
            self.start()
        except (AssertionError, subprocess.CalledProcessError) as error:
            self.close()
            why = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
            pytest.skip(f"no engine of our own runs here: {why}")

    def start(self) -> None:
        """Until it answers; after a kill, its containerd goes too, as an init system would see to."""
        left = self.folder / "exec" / "containerd" / "containerd.pid"
        if left.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(left.read_text()), signal.SIGKILL)
            left.unlink()
        none = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        roots = [f"--data-root={self.data}", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"]
        with (self.folder / "log").open("ab") as log:
            inside = ["nsenter", f"--net=/run/netns/{self.network}"]
            command = [*inside, "dockerd", f"--host={self.host}", *roots, *([] if self.bridges else none)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, (self.folder / "log").read_text()[-500:]
            time.sleep(0.02)

    def _make_network(self) -> str:
        """A network namespace and a cable into it; answers the address of its end there."""
        number = int.from_bytes(hashlib.sha256(self.network.encode()).digest()[:2])
        ours, theirs = (f"10.{200 + number % 50}.{number >> 8}.{host}" for host in (1, 2))
        for command in (
            f"netns add {self.network}",
            f"link add {self.network}a type veth peer name {self.network}b netns {self.network}",
            f"addr add {ours}/30 dev {self.network}a",
            f"link set {self.network}a up",
            f"-n {self.network} addr add {theirs}/30 dev {self.network}b",
            f"-n {self.network} link set lo up",
            f"-n {self.network} link set {self.network}b up",
            f"-n {self.network} route add default via {ours}",
        ):
            _run("ip", *command.split())
        return theirs

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as ping, contextlib.suppress(OSError):
            ping.settimeout(5)
            ping.connect(self.host.removeprefix("unix://"))
            ping.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in ping.recv(64)
        return False

    def signal(self, number: int) -> None:
        """To the engine alone, not to what it runs."""
        assert self._process is not None
        self._process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait(30)

    def fill(self) -> Path:
        """Leaves no space on its disk; remove the file that is answered to give it back."""
        filler = self.data / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        return filler

    def close(self) -> None:
        """Ends it with all that it runs."""
        self._heir.kill()
        self._heir.communicate()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            _empty(self.host)
            self.signal(signal.SIGTERM)
        _sweep(self.folder, self.network)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def _empty(host: str) -> None:
    """Removes its containers, whose processes nobody else knows for ours."""
    with contextlib.suppress(docker.errors.DockerException), client(host) as api:
        for one in api.containers(all=True):
            api.remove_container(one["Id"], force=True)


def _processes(folder: Path) -> Iterator[int]:
    """The engine, its containerd, and shims that outlived one that was killed: each names the folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}/exec".encode() in path.read_bytes():
                yield int(path.parent.name)


def _sweep(folder: Path, network: str) -> None:
    """What is left of an engine: processes, what is mounted in its folder, its network."""
    for process in _processes(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in reversed(mounted):
        if path.startswith(f"{folder}/"):
            _run("umount", "-l", path)
    if Path("/run/netns", network).exists():
        _run("ip", "netns", "del", network)
    shutil.rmtree(folder, ignore_errors=True)


def _inherit(folder: Path, network: str) -> None:
    """Waits until nobody holds the other end of our stdin any more, then ends the engine."""
    sys.stdin.read()
    for process in _processes(folder):  # a test may have stopped it
        os.kill(process, signal.SIGCONT)
    _empty(f"unix://{folder}/docker.sock")
    _sweep(folder, network)


if __name__ == "__main__":
    _inherit(Path(sys.argv[1]), sys.argv[2])
