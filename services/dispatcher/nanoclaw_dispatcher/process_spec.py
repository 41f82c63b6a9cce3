"""What a process attempt consists of before it runs: its command line, environment, limits and folder."""

import math
import shutil
import uuid
from pathlib import Path
from tempfile import mkdtemp

from nanoclaw_agent.environment import Environment
from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher import code_mounts
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.groups import Group
from nanoclaw_dispatcher.sandbox import Sandbox
from nanoclaw_dispatcher.workspace import WORKSPACE_GROUP, WORKSPACE_IPC, WORKSPACE_RELAY, relay_socket

OUTPUT_LIMIT = 1 << 20
"""Bytes of output after which a new file is begun; the one before is kept."""


def prepare(spec: AttemptSpec, folder: Path, *, group_dir: Path, sandbox: Sandbox | None) -> None:
    """Puts `folder`, the attempt's `run`, in place as a whole; one that is there already stays. Raises OSError."""
    # An agent may leave anything there, programs that take on our rights when they are run too: nobody else goes in.
    group_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    group_dir.mkdir(exist_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        command = list(spec.group.command or code_mounts.REFERENCE_AGENT)
        if sandbox is not None:
            command = sandbox.command(
                spec.group,
                command,
                group_dir=group_dir,
                mailbox=spec.mailbox,
                state=folder,
                writing=new,
                relay=spec.relay,
            )
        to_run = {
            "attempt_id": spec.attempt_id,
            "dispatch_key": spec.dispatch_key,
            "task_id": spec.task_id,
            "group": spec.group.name,
            "boot_id": files.boot_id(),
            "mailbox": str(spec.mailbox),
            "sandboxed": sandbox is not None,
            "argv": command,
            "run": (run := uuid.uuid4().hex),
            "env": environment(spec, group_dir, inside=sandbox is not None) | {files.RUN: run},
            "cwd": str(group_dir) if sandbox is None else "/",
            "stdin": spec.stdin,
            "limits": limits(spec.group),
            "output_limit": OUTPUT_LIMIT,
        }
        files.write(str(new), files.SPEC, to_run)
        (new / files.LOCK).touch(mode=0o600)
        new.rename(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not folder.exists():  # else another dispatcher was quicker with the same
            raise


def environment(spec: AttemptSpec, group_dir: Path, *, inside: bool) -> dict[str, str]:
    """All variables that the agent gets; nothing of ours is inherited."""
    known = Environment(
        ipc_dir=WORKSPACE_IPC if inside else str(spec.mailbox),
        group_dir=WORKSPACE_GROUP if inside else str(group_dir),
        group=spec.group.name,
        task_id=spec.task_id,
        attempt=spec.attempt_id,
        traceparent=spec.traceparent,
        relay_socket=relay_socket(WORKSPACE_RELAY if inside else spec.relay) if spec.relay is not None else "",
    )
    return {
        "PATH": code_mounts.SEARCH_PATH,
        "HOME": known.group_dir,
        "LANG": "C.UTF-8",
        "PYTHONPATH": code_mounts.KIT_PARENT if inside else str(code_mounts.AGENT_KIT.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        **spec.group.env,
        **known.variables(),
    }


def limits(group: Group) -> dict[str, int]:
    """What the kernel holds each process of the attempt to, by the name of the limit.

    `cpu` is a budget of seconds here: that many cores all the time. The number of processes is limited in the sandbox.
    """
    return {
        "CORE": 0,
        "NOFILE": 1024,
        "CPU": math.ceil(group.cpu * group.wall_timeout) + 1,
        "DATA": group.memory_mb << 20,
        "FSIZE": group.file_size_mb << 20,
    }
