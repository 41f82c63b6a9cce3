"""What an agent can't do, tried from inside the sandbox; each test fails when its wall is taken down."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import code_mounts, sandbox
from nanoclaw_dispatcher.groups import Mount
from nanoclaw_dispatcher.process_runtime import ProcessRuntime
from nanoclaw_dispatcher.runtime import Isolation

VARIABLES = {
    *("PATH", "HOME", "LANG", "PWD", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TRACEPARENT"),
    *("NANOCLAW_IPC_DIR", "NANOCLAW_GROUP_DIR", "NANOCLAW_GROUP", "NANOCLAW_GROUP_FOLDER", "NANOCLAW_CHAT_JID"),
    *("NANOCLAW_IS_MAIN", "NANOCLAW_TASK_ID", "NANOCLAW_ATTEMPT", "NANOCLAW_RUN"),
}


async def inside(place: Any, program: str, *, attempt_id: str = "a-1", **options: Any) -> Any:
    """What a Python program that runs as the agent finds out: it leaves it in `found`."""
    source = f"import json, os\nfound = None\n{program}\nprint(json.dumps(found))"
    command = (code_mounts.PYTHON, "-S", "-c", source)
    await place.started(attempt_id, "", command=command, **options)
    ended = await place.runtime.wait(attempt_id)
    said = await place.runtime.last_lines(attempt_id)
    assert ended.exit_code == 0, said
    return json.loads(said.splitlines()[-1])


async def test_there_is_no_network(sandboxed: Any) -> None:
    """Not even the machine's own loopback, where the services listen, nor abstract sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0nanoclaw-test-isolation")
        abstract.listen()
        found = await inside(
            sandboxed,
            f"""
import socket
found = []
for family, address in [(socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})), (socket.AF_INET, ("192.0.2.1", 80)),
                        (socket.AF_UNIX, "\\0nanoclaw-test-isolation")]:
    with socket.socket(family) as s:
        s.settimeout(2)
        try:
            s.connect(address)
            found.append("connected")
        except OSError:
            found.append("refused")
found.append(os.listdir("/proc/sys/net/ipv4/conf"))
""",
        )
    assert found[:3] == ["refused"] * 3
    assert set(found[3]) == {"all", "default", "lo"}


async def test_other_folders_secrets_and_the_store_are_not_there(sandboxed: Any) -> None:
    """Of NANOCLAW_HOME an agent sees its own folder and its own mailbox, under names that tell nothing."""
    home = sandboxed.home
    for secret in ("groups/security/plan", "secrets/services/x.token", "store/nanoclaw.db", "attempts/a-2/ipc/file"):
        path = home / f"{secret}-cafebabe"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    sandboxed.spec("a-1", "exit").mailbox.joinpath("mine-cafebabe").touch()
    (home / "groups" / "developer").mkdir()
    (home / "groups" / "developer" / "ours-cafebabe").touch()
    found = await inside(
        sandboxed,
        f"""
found = [os.path.exists({str(home)!r}), []]
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in
                  ("/proc", "/usr", {code_mounts.PYTHON.rpartition("/bin/")[0]!r}, {os.path.realpath(os.sys.prefix)!r})]
    found[1] += [os.path.join(folder, name) for name in files if "cafebabe" in name]
""",
    )
    assert found == [False, ["/workspace/ipc/mine-cafebabe", "/workspace/group/ours-cafebabe"]] or found == [
        False,
        ["/workspace/group/ours-cafebabe", "/workspace/ipc/mine-cafebabe"],
    ]


async def test_the_environment_is_what_was_meant_and_no_more(sandboxed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the dispatcher was started with goes along; what the group's configuration says does."""
    monkeypatch.setenv("NANOCLAW_GATEWAY_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    fresh = await sandboxed.successor()
    sandboxed.runtime = fresh
    found = await inside(sandboxed, "found = dict(os.environ)", env={"MODEL": "small"})
    assert set(found) - {"LC_CTYPE"} == VARIABLES | {"MODEL"}
    assert found["NANOCLAW_IPC_DIR"] == "/workspace/ipc"
    assert found["NANOCLAW_ATTEMPT"] == "a-1"
    assert "secret" not in found.values()


async def test_without_a_sandbox_the_environment_is_as_small(processes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No isolation is claimed then, but no secret is handed over either."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    processes.runtime = await processes.successor()
    found = await inside(processes, "found = [dict(os.environ), os.getcwd()]")
    assert set(found[0]) - {"LC_CTYPE", "PWD"} == VARIABLES - {"PWD"}
    assert found[1] == found[0]["NANOCLAW_GROUP_DIR"]


async def test_code_and_system_are_read_only(sandboxed: Any) -> None:
    """An agent that could change the code would change the next agent."""
    found = await inside(
        sandboxed,
        """
import sys
found = []
folders = ["/", "/usr", "/usr/bin", "/etc", "/opt", "/opt/nanoclaw", "/opt/nanoclaw/nanoclaw_agent", "/dev",
           "/workspace", "/proc/sys/kernel", os.path.dirname(os.__file__)]
for folder in folders:
    try:
        open(os.path.join(folder, "x"), "w")
        found.append(folder)
    except OSError:
        pass
for path in [sys.executable, "/opt/nanoclaw/nanoclaw_agent/__init__.py", "/etc/passwd"]:
    try:
        open(path, "a")
        found.append(path)
    except OSError:
        pass
for folder, folders, files in os.walk("/proc"):
    if folder == "/proc":
        folders[:] = [name for name in folders if not name.isdecimal()]
    paths = [os.path.join(folder, name) for name in files]
    found += [path for path in paths if os.path.isfile(path) and os.access(path, os.W_OK)]
""",
    )
    assert found == []


async def test_its_own_folders_are_writable_and_last(sandboxed: Any) -> None:
    """Memory and sessions persist in the group's folder; requests go out by the mailbox."""
    program = (
        'open("memory", "a").write("1"); open("/workspace/ipc/r.json", "w"); open("/tmp/x", "w"); found = os.getcwd()'
    )
    assert await inside(sandboxed, program) == "/workspace/group"
    await inside(sandboxed, program, attempt_id="a-2")
    assert (sandboxed.home / "groups" / "developer" / "memory").read_text() == "11"
    assert (sandboxed.home / "attempts" / "a-2" / "ipc" / "r.json").exists()
    assert not Path("/tmp/x").exists()


async def test_an_agent_is_nobody_special(sandboxed: Any) -> None:
    """No root, no capability, no way to gain any, no namespace of its own making."""
    found = await inside(
        sandboxed,
        """
import subprocess
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
found = [os.getuid(), os.getgid(), status["CapEff"], status["CapPrm"], status["CapBnd"], status["NoNewPrivs"]]
found.append(subprocess.run(["unshare", "-U", "true"], capture_output=True).returncode != 0)
""",
    )
    none = "0" * 16
    assert found == [10002, 10002, none, none, none, "1", True]


async def test_other_processes_are_out_of_sight(sandboxed: Any) -> None:
    """It sees the sandbox's first process and its own; and of open files only the three that it should have."""
    found = await inside(
        sandboxed,
        """
found = [sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())]
found.append([int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)])
""",
    )
    assert found[0] == [1, 2]
    assert found[1] == [0, 1, 2]


async def test_limits_bite(sandboxed: Any) -> None:
    """File size, memory and open files, each as the group's configuration says."""
    found = await inside(
        sandboxed,
        """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
found = []
try:
    with open("big", "wb") as file:
        for _ in range(3):
            file.write(b"x" * (1 << 20))
            file.flush()
except OSError as error:
    found.append(error.errno)
try:
    bytearray(200 << 20)
except MemoryError:
    found.append("memory")
try:
    files = [open("/dev/null") for _ in range(2000)]
except OSError as error:
    found.append(error.errno)
files = None
try:
    with open("/tmp/big", "wb") as file:
        os.ftruncate(file.fileno(), 8 << 20)
except OSError as error:
    found.append(error.errno)
""",
        file_size_mb=2,
        memory_mb=100,
    )
    assert found == [27, "memory", 24, 27]


@pytest.mark.skipif(os.getuid() == 0, reason="the kernel does not count root's processes")
async def test_the_number_of_processes_is_limited(sandboxed: Any) -> None:
    """A fork bomb stays in its box."""
    found = await inside(
        sandboxed,
        """
import signal
children = []
try:
    for _ in range(100):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError:
    pass
found = len(children)
for child in children:
    os.kill(child, signal.SIGKILL)
""",
        pids=20,
    )
    assert found < 20


async def test_instructions_are_shown_read_only(sandboxed: Any) -> None:
    """CLAUDE.md is the operator's word: an agent reads it, and can neither change, replace nor remove it."""
    group = sandboxed.home / "groups" / "developer"
    group.mkdir(parents=True)
    (group / "CLAUDE.md").write_text("be kind")
    found = await inside(
        sandboxed,
        """
found = [open("CLAUDE.md").read()]
for change in (lambda: open("CLAUDE.md", "w"), lambda: os.remove("CLAUDE.md"), lambda: os.rename("CLAUDE.md", "x")):
    try:
        change()
        found.append("changed")
    except OSError:
        found.append("refused")
""",
    )
    assert found == ["be kind", "refused", "refused", "refused"]
    assert (group / "CLAUDE.md").read_text() == "be kind"


@pytest.mark.parametrize("trick", ["symlink", "hard link", "fifo", "directory"])
async def test_instructions_are_no_way_out(sandboxed: Any, trick: str) -> None:
    """An agent that puts a link in the place of CLAUDE.md does not get shown, at the next start, what it points to."""
    group = sandboxed.home / "groups" / "developer"
    group.mkdir(parents=True)
    secret = sandboxed.home / "token"
    secret.write_text("secret")
    instructions = group / "CLAUDE.md"
    if trick == "symlink":
        instructions.symlink_to(secret)
    elif trick == "hard link":
        instructions.hardlink_to(secret)
    elif trick == "fifo":
        os.mkfifo(instructions)
    else:
        instructions.mkdir()
    await sandboxed.runtime.create(sandboxed.spec("a-1", "exit", "0"))
    assert not (sandboxed.home / "attempts" / "a-1" / "run" / "CLAUDE.md").exists()
    await sandboxed.runtime.start("a-1")
    assert (await sandboxed.runtime.wait("a-1")).exit_code == 0


async def test_mounts_of_the_configuration_are_shown(sandboxed: Any, tmp_path: Path) -> None:
    """Read-only unless it says otherwise."""
    (tmp_path / "data").write_text("42")
    (tmp_path / "out").mkdir()
    found = await inside(
        sandboxed,
        """
found = [open("/data").read()]
open("/out/x", "w")
try:
    open("/data", "w")
except OSError:
    found.append("refused")
""",
        mounts=(Mount(str(tmp_path / "data"), "/data"), Mount(str(tmp_path / "out"), "/out", writable=True)),
    )
    assert found == ["42", "refused"]
    assert (tmp_path / "out" / "x").exists()


@pytest.mark.parametrize("source", ["{home}", "{home}/secrets", "/", "{link}", "/no-such-folder"])
async def test_a_mount_that_would_show_the_house_is_refused(sandboxed: Any, tmp_path: Path, source: str) -> None:
    """Secrets, the store and the other groups can't be let in by a slip of the configuration."""
    (sandboxed.home / "secrets").mkdir()
    (tmp_path / "link").symlink_to(sandboxed.home / "secrets")
    mount = Mount(source.format(home=sandboxed.home, link=tmp_path / "link"), "/data")
    with pytest.raises(NanoclawError) as caught:
        await sandboxed.runtime.create(sandboxed.spec("a-1", "exit", "0", mounts=(mount,)))
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "MOUNT_REFUSED")


@pytest.mark.parametrize("target", ["/workspace/ipc", "/proc/x", "/etc", "/opt/nanoclaw/nanoclaw_agent"])
async def test_a_mount_does_not_cover_the_sandboxs_own(sandboxed: Any, tmp_path: Path, target: str) -> None:
    """The mailbox is where the gateway looks."""
    with pytest.raises(NanoclawError, match="MOUNT_REFUSED"):
        await sandboxed.runtime.create(sandboxed.spec("a-1", "exit", "0", mounts=(Mount(str(tmp_path), target),)))


async def test_the_reference_agent_starts_from_what_a_sandbox_shows(processes: Any) -> None:
    """It needs Python and the agent kit alone, and reads its opening: this one names no task, and it says so."""
    await processes.started("a-1", "", command=())
    ended = await processes.runtime.wait("a-1")
    assert ended.exit_code == 1
    assert "nanoclaw agent: " in await processes.runtime.last_lines("a-1")


async def test_without_a_sandbox_only_the_reference_agent_runs(home: Path, process_place: Any) -> None:
    """NO_SANDBOX for any other command, with what to do about it; and an operator may allow it, in plain view."""
    runtime = ProcessRuntime(home, use_sandbox=False)
    await runtime.open()
    assert runtime.isolation is Isolation.NONE
    place = process_place(home, False)
    with pytest.raises(NanoclawError) as caught:
        await runtime.create(place.spec("a-1", "exit", "0"))
    assert (caught.value.kind, caught.value.reason) == (Kind.DENIED, "NO_SANDBOX")
    assert "ALLOW_UNSANDBOXED" in caught.value.next_step
    await runtime.create(place.spec("a-2", "", command=()))
    await runtime.close()
    allowed = ProcessRuntime(home, use_sandbox=False, allow_unsandboxed=True)
    await allowed.open()
    assert allowed.isolation is Isolation.UNSAFE
    await allowed.create(place.spec("a-1", "exit", "0"))
    await allowed.close()


def test_a_sandbox_that_does_not_work_is_not_claimed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is run for real: a bwrap that fails, or none, or one that only pretends, is no sandbox."""
    tools = home / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert sandbox.find(home) == (None, "bubblewrap (bwrap) is not installed")
    fake = tools / "bwrap"
    fake.write_text("#!/bin/sh\necho no user namespaces here >&2\nexit 1\n")
    fake.chmod(0o755)
    assert sandbox.find(home) == (None, "no user namespaces here")
    fake.write_text('#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift\nexec "$@"\n')
    assert sandbox.find(home)[0] is None


def test_no_sandbox_is_claimed_where_code_and_secrets_share_a_folder() -> None:
    """A NANOCLAW_HOME below /usr would be shown with /usr."""
    found, why = sandbox.find(Path("/usr/local/share/nanoclaw"))
    assert found is None
    assert "/usr" in why
