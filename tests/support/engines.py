"""Docker engines and images for tests: the engine that is here, images made without a registry, and what is missing."""

import functools
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import docker
import pytest

_ROOT = Path(__file__).parents[2]
_PROGRAMS = ("sh", "sleep", "head", "tr", "cat", "mkdir")
_BASES = ("nanoclaw-base:bookworm", "nanoclaw-agent:latest", "python:3.13-slim")

HOST = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


@functools.cache
def _missing() -> str:
    if shutil.which("docker") is None:
        return "the docker command is not on PATH"
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
