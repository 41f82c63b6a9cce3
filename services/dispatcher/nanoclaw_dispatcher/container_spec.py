"""What a container attempt consists of before it runs: its folder here, and its configuration for the engine."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from nanoclaw_agent.environment import Environment
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.container_site import LABEL_HOME, RUN, Site, share
from nanoclaw_dispatcher.workspace import (
    INSTRUCTIONS,
    WORKSPACE_GROUP,
    WORKSPACE_IPC,
    WORKSPACE_RELAY,
    copy_instructions,
    relay_socket,
)

FOR_AGENT, OPENING, RAN = "agent", "opening", "ran"
"""What the container sees of the attempt's folder at `RUN`: its opening line, and a mark that it has run."""

REFUSED = 125
_MIB = 1 << 20
_CPU_PERIOD = 100_000

# The engine starts an exited container again for whoever asks. What a dispatcher asked for that died since may come to
# the engine's turn when the agent has ended already: it must not run twice. The mark outlives the container's run.
_BEGIN = f"""
if [ -s {RUN}/{RAN} ]; then echo again >>{RUN}/{RAN}; exit {REFUSED}; fi
echo run >{RUN}/{RAN} || exit {REFUSED}
exec "$@" <{RUN}/{OPENING}
"""


def prepare(spec: AttemptSpec, site: Site) -> None:
    """Puts the attempt's folder in place as a whole; one that is there already stays. Raises OSError."""
    group_dir, folder = site.group_dir(spec.group), site.folder(spec.attempt_id)
    group_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    group_dir.mkdir(exist_ok=True)
    share(group_dir, site.agent_uid)
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        inside = new / FOR_AGENT
        inside.mkdir()
        (inside / OPENING).write_text(spec.stdin)
        (inside / RAN).touch()
        for path, mode in ((inside, 0o755), (inside / OPENING, 0o644), (inside / RAN, 0o666)):
            path.chmod(mode)  # whatever our umask; nobody but the agent comes here, past a folder that is only ours
        if copy_instructions(group_dir, new):
            (new / INSTRUCTIONS).chmod(0o644)
        files.write(str(new), files.SPEC, {"mailbox": str(spec.mailbox)})
        (new / files.LOCK).touch(mode=0o600)
        new.rename(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not folder.exists():  # else another dispatcher was quicker with the same
            raise


def configuration(spec: AttemptSpec, site: Site, image: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the engine's create call. image: the image's own configuration, whose command runs for a group
    without one. Raises PRECONDITION NO_COMMAND, OUTSIDE_HOME."""
    group, folder = spec.group, site.folder(spec.attempt_id)
    command = [*group.command] or [*(image.get("Entrypoint") or ()), *(image.get("Cmd") or ())]
    if not command:
        raise NanoclawError(
            Kind.PRECONDITION,
            "NO_COMMAND",
            f"neither group {group.name} nor its image says what to run",
            next_step="give the group a command in config/groups.toml",
        )
    mounts = [
        _mount(site.on_engine(site.group_dir(group)), WORKSPACE_GROUP, writable=True),
        _mount(site.on_engine(folder / FOR_AGENT), RUN, writable=True),
        *(_mount(one.source, one.target, writable=one.writable) for one in group.mounts),
    ]
    if spec.relay is not None:  # its folder, for a new broker makes a new socket in it
        mounts.append(_mount(site.on_engine(spec.relay), WORKSPACE_RELAY))
    if (folder / INSTRUCTIONS).exists():
        mounts.append(_mount(site.on_engine(folder / INSTRUCTIONS), f"{WORKSPACE_GROUP}/{INSTRUCTIONS}"))
    memory = group.memory_mb * _MIB
    limits = {"core": 0, "nofile": 1024, "fsize": group.file_size_mb * _MIB}
    # An image's volumes would be writable places without a limit.
    scratch = dict.fromkeys(image.get("Volumes") or (), f"rw,nosuid,nodev,size={group.file_size_mb}m,mode=1777")
    host = {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "ReadonlyRootfs": True,
        "Tmpfs": {**scratch, "/tmp": f"rw,nosuid,nodev,size={group.file_size_mb}m,mode=1777"},  # noqa: S108
        "IpcMode": "private",
        "PidsLimit": group.pids,
        "Memory": memory,
        "MemorySwap": memory,
        "CpuPeriod": _CPU_PERIOD,
        "CpuQuota": max(1000, int(group.cpu * _CPU_PERIOD)),  # NanoCpus refuses more than the machine has
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in limits.items()],
        "Mounts": mounts,
        # As a bind, since it may not be there yet; a start without it is refused.
        "Binds": [f"{site.on_engine(spec.mailbox)}:{WORKSPACE_IPC}:rw"],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
        "RestartPolicy": {"Name": "no"},
        "Init": True,  # else signals without a handler are lost on the agent, the first process, and nobody reaps
    }
    return {
        "Image": group.image or site.image,
        "Entrypoint": ["/bin/sh", "-c", _BEGIN, "agent"],
        "Cmd": command,
        "User": f"{site.agent_uid}:{site.agent_uid}",
        "WorkingDir": WORKSPACE_GROUP,
        "Hostname": "agent",
        "Env": [f"{name}={value}" for name, value in environment(spec).items()],
        "Labels": {
            LABEL_HOME: site.data,
            "nanoclaw.attempt": spec.attempt_id,
            "nanoclaw.dispatch_key": spec.dispatch_key,
            "nanoclaw.task": spec.task_id,
            "nanoclaw.group": group.name,
        },
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }


def environment(spec: AttemptSpec) -> dict[str, str]:
    """What the agent gets beside the variables of its image."""
    known = Environment(
        ipc_dir=WORKSPACE_IPC,
        group_dir=WORKSPACE_GROUP,
        group=spec.group.name,
        task_id=spec.task_id,
        attempt=spec.attempt_id,
        traceparent=spec.traceparent,
        relay_socket=relay_socket(WORKSPACE_RELAY) if spec.relay is not None else "",
    )
    fixed = {"HOME": WORKSPACE_GROUP, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**fixed, **spec.group.env, **known.variables()}


def _mount(source: str, target: str, *, writable: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": not writable}
