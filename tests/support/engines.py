"""Docker engines and images for tests: the engine that is here, images made without a registry, and what is missing."""

import contextlib
import functools
import hashlib
import io
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import docker
import pytest

_ROOT = Path(__file__).parents[2]
_PROGRAMS = ("sh", "sleep", "head", "tr", "cat", "mkdir")
_BASES = ("nanoclaw-base:bookworm", "nanoclaw-agent:latest", "python:3.13-slim")

_numbers = itertools.count(1)

HOST = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


@functools.cache
def _missing() -> str:
    try:
        with docker.APIClient(HOST, version="auto", timeout=10) as api:
            api.ping()
    except docker.errors.DockerException as error:
        return str(error)
    return ""


def require_engine() -> str:
    """The address of the engine that is here; skips the test where there is none."""
    if why := _missing():
        pytest.skip(f"no Docker engine at {HOST}: {why}")
    return HOST


def client(host: str = HOST) -> docker.APIClient:
    """A bare client, for what a person would do to the engine: `with client() as api`."""
    return docker.APIClient(host, version="auto", timeout=60)


def shell_image(host: str = HOST) -> str:
    """An image with a shell and a few programs of this machine, three megabytes; made where it is not there yet."""
    archive = _shell_archive()
    repository, tag = "nanoclaw-test-shell", hashlib.sha256(archive).hexdigest()[:12]
    return _made(host, f"{repository}:{tag}", lambda api: api.import_image_from_data(archive, repository, tag))


def python_image(host: str = HOST) -> str:
    """An image with Python and the agent kit of this working tree, on whatever base with Python the engine has."""
    with client(host) as api:
        base = next((name for name in _BASES if api.images(name)), "")
    if not base:
        pytest.skip(f"the engine at {host} has none of {', '.join(_BASES)}: build one first (docs/docker.md)")
    lines = f"FROM {base}\nUSER root\nCOPY kit /opt/kit\nENV PYTHONPATH=/opt/kit\nENTRYPOINT []\n"
    lines += 'CMD ["python3", "-m", "nanoclaw_agent.reference"]\nVOLUME /var/scratch\n'
    context = _archive({"Dockerfile": lines.encode(), **_kit()})
    name = f"nanoclaw-test-python:{hashlib.sha256(context).hexdigest()[:12]}"

    def build(api: docker.APIClient) -> None:
        for line in api.build(fileobj=io.BytesIO(context), custom_context=True, tag=name, rm=True, decode=True):
            assert "error" not in line, line

    return _made(host, name, build)


def _made(host: str, name: str, make: Callable[[docker.APIClient], object]) -> str:
    with client(host) as api:
        if not api.images(name):
            make(api)
    return name


def _kit() -> dict[str, bytes]:
    folder = _ROOT / "libs" / "nanoclaw_agent"
    return {f"kit/nanoclaw_agent/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}


@functools.cache
def _shell_archive() -> bytes:
    found: dict[str, bytes] = {}
    for program in _PROGRAMS:
        path = shutil.which(program)
        assert path is not None, f"{program} is not on this machine"
        found[f"bin/{program}"] = Path(path).read_bytes()
        listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            found[library.lstrip("/")] = Path(library).read_bytes()
    return _archive(found)


def _archive(files: dict[str, bytes]) -> bytes:
    """A tar archive that is the same for the same files. Folders stand in it: some engines shut those that do not."""
    buffer = io.BytesIO()
    folders = {str(folder) for name in files for folder in Path(name).parents} - {"."}
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted(folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def load_images(host: str, names: Sequence[str]) -> None:
    """Copies images from the engine that is here to the one at `host`."""
    with subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE) as saving:
        subprocess.run(["docker", "--host", host, "load", "--quiet"], stdin=saving.stdout, check=True, timeout=240)
    assert saving.returncode == 0


class OwnEngine:
    """An engine of the test's own, to be killed, stopped and filled.

    It lives in a network of its own, since two engines in one fight over bridges and filters: one that is told to do
    without a bridge begins by removing that of the other. bridges: whether containers get networks; then the ports that
    they publish on `address` can be reached from here.
    """

    def __init__(self, folder: Path, megabytes: int, *, bridges: bool = False) -> None:
        if os.getuid() != 0 or shutil.which("dockerd") is None or shutil.which("ip") is None:
            pytest.skip("an engine of the test's own needs root, dockerd and ip (iproute2)")
        self.folder = folder
        self.bridges = bridges
        self.network = f"nc{os.getpid()}{next(_numbers)}"
        self.address = self._make_network()
        self.host = f"unix://{folder}/docker.sock"
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        size = f"size={megabytes}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.data)], check=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

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
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"no engine of our own runs here: {(self.folder / 'log').read_text()[-500:]}")
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
            subprocess.run(["ip", *command.split()], check=True)
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
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            with client(self.host) as api, contextlib.suppress(docker.errors.DockerException):
                for one in api.containers(all=True):
                    api.remove_container(one["Id"], force=True)
            self.signal(signal.SIGTERM)
        self._sweep()
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in reversed(mounted):
            if path.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", path], check=True)
        subprocess.run(["ip", "netns", "del", self.network], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Shims that outlived an engine that was killed; each names our folder."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"{self.folder}/exec".encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
