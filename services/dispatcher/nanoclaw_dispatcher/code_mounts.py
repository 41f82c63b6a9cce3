"""Where the code of an agent lies on this machine, so that a sandbox can show it read-only and nothing else."""

import compileall
import functools
import os
import sys
from pathlib import Path

import nanoclaw_agent

PYTHON = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
"""The interpreter itself, not a virtual environment's link to it."""

AGENT_KIT = Path(nanoclaw_agent.__file__).parent
"""The folder of the package nanoclaw_agent."""

KIT_PARENT = "/opt/nanoclaw"
"""What holds the agent kit inside a sandbox."""

SEARCH_PATH = ":".join(
    dict.fromkeys([f"{sys.prefix}/bin", f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"])
)

# -S: the kit needs nothing but the standard library, and looking for site-packages costs a third of the start-up.
REFERENCE_AGENT = (PYTHON, "-S", "-s", "-P", "-m", "nanoclaw_agent.reference")
"""What runs for a group without a command."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")


@functools.cache
def system() -> tuple[str, ...]:
    """bubblewrap's arguments for the machine's programs and libraries, and the Python that we run on."""
    arguments: list[str] = []
    for folder in map(Path, _SYSTEM):
        if folder.is_symlink():
            arguments += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            arguments += ["--ro-bind", str(folder), str(folder)]
    for path in _ETC:
        arguments += ["--ro-bind-try", path, path]
    for path in dict.fromkeys([sys.base_prefix, sys.prefix]):
        if not _within(path, _SYSTEM):
            arguments += ["--ro-bind", path, path]
    return (*arguments, "--ro-bind", str(AGENT_KIT), f"{KIT_PARENT}/{AGENT_KIT.name}")


def compile_kit() -> None:
    """Compiles the agent kit where that is still to be done: inside, its folder can't be written, and an agent that has
    to compile it starts three times as slowly. Where it can't be written here either, that is how it is."""
    compileall.compile_dir(AGENT_KIT, quiet=2, maxlevels=0)


def shown(home: Path) -> str | None:
    """The code folder that `home` lies in, if it does: a sandbox that shows the one would show the other."""
    for path in (*_SYSTEM, sys.base_prefix, sys.prefix, str(AGENT_KIT)):
        if _within(os.path.realpath(home), (os.path.realpath(path),)):
            return path
    return None


def _within(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)
