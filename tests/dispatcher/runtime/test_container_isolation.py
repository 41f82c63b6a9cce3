"""What an agent can't do, tried from inside a real container; each test fails when its wall is taken down."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import engines
import pytest

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.groups import Mount
from nanoclaw_dispatcher.runtime import EndReason, Isolation

pytestmark = pytest.mark.docker


async def inside(place: Any, program: str, *, attempt_id: str = "a-1", **options: Any) -> Any:
    """What a Python program that runs as the agent finds out: it leaves it in `found`."""
    source = f"import json, os\nfound = None\n{program}\nprint(json.dumps(found))"
    await place.started(attempt_id, "", command=("python3", "-S", "-c", source), **options)
    ended = await place.runtime.wait(attempt_id)
    said = await place.runtime.last_lines(attempt_id)
    assert ended.exit_code == 0, said
    return json.loads(said.splitlines()[-1])


async def test_there_is_no_network(python_containers: Any) -> None:
    """Not the machine's loopback, where the services listen, not its abstract sockets, not the engine's bridge."""
    with socket.create_server(("", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0nanoclaw-test-containers")
        abstract.listen()
        port = server.getsockname()[1]
        found = await inside(
            python_containers,
            f"""
import socket
found = []
for family, address in [(socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_INET, ("172.17.0.1", {port})),
                        (socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_UNIX, "\\0nanoclaw-test-containers")]:
    with socket.socket(family) as s:
        s.settimeout(2)
        try:
            s.connect(address)
            found.append("connected")
        except OSError:
            found.append("refused")
found.append(sorted(os.listdir("/sys/class/net")))
""",
        )
    assert found[:4] == ["refused"] * 4
    assert [name for name in found[4] if not name.startswith(("tunl", "sit", "ip6", "gre", "erspan", "ip_vti"))] == [
        "lo"
    ]
    assert python_containers.runtime.isolation is Isolation.CONTAINER


async def test_an_agent_is_nobody_special(python_containers: Any) -> None:
    """Not root, no capability, no way to gain any, no namespace of its own making, system calls filtered."""
    found = await inside(
        python_containers,
        """
import ctypes
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
found = [os.getuid(), os.getgid(), os.getgroups()]
found += [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")]
for flags in (0x10000000, 0x00020000, 0x40000000):
    found.append(ctypes.CDLL(None).unshare(flags))
""",
    )
    uid, none = python_containers.uid, "0" * 16
    assert found == [uid, uid, [uid], none, none, none, none, none, "1", "2", -1, -1, -1] or found == [
        *(uid, uid, [], none, none, none, none, none, "1", "2", -1, -1, -1)
    ]


async def test_the_root_is_read_only_and_only_its_own_places_are_not(python_containers: Any) -> None:
    """Of all folders that there are, those that can be written are its group's, its mailbox, and memory."""
    python_containers.spec("a-1", "exit").mailbox.chmod(0o777)
    found = await inside(
        python_containers,
        """
found = []
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [name for name in folders if name not in ("proc", "sys")]
    try:
        path = os.path.join(folder, ".written")
        open(path, "x").close()
        os.remove(path)
        found.append(folder)
    except OSError:
        pass
    found += [os.path.join(folder, name) for name in files if os.path.isfile(os.path.join(folder, name))
              and os.access(os.path.join(folder, name), os.W_OK)]
for folder, folders, files in os.walk("/proc"):
    if folder == "/proc":  # pressure: the kernel lets everybody ask to be told of it
        folders[:] = [name for name in folders if not name.isdecimal() and name != "pressure"]
    paths = [os.path.join(folder, name) for name in files]
    found += [path for path in paths if os.path.isfile(path) and os.access(path, os.W_OK)]
for folder, folders, files in os.walk("/sys"):
    found += [os.path.join(folder, name) for name in files if os.access(os.path.join(folder, name), os.W_OK)]
""",
    )
    places = {"/tmp", "/dev/shm", "/dev/mqueue", "/var/scratch", "/workspace/group", "/workspace/ipc"}
    assert set(found) == places | {"/run/nanoclaw/ran"}


async def test_secrets_other_groups_and_the_engine_are_not_there(python_containers: Any) -> None:
    """Of NANOCLAW_HOME an agent sees its own folder and its own mailbox, under names that tell nothing."""
    home = python_containers.home
    for secret in ("groups/security/plan", "secrets/services/x.token", "store/nanoclaw.db", "attempts/a-2/ipc/file"):
        path = home / f"{secret}-cafebabe"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    python_containers.spec("a-1", "exit").mailbox.joinpath("mine-cafebabe").touch()
    (home / "groups" / "developer").mkdir()
    (home / "groups" / "developer" / "ours-cafebabe").touch()
    found = await inside(
        python_containers,
        f"""
import stat
found = [os.path.exists({str(home)!r}), [], []]
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders.remove("proc")
    for name in files:
        path = os.path.join(folder, name)
        if "cafebabe" in name:
            found[1].append(path)
        if stat.S_ISSOCK(os.lstat(path).st_mode) or stat.S_ISBLK(os.lstat(path).st_mode):
            found[2].append(path)
found[1].sort()
""",
    )
    assert found == [False, ["/workspace/group/ours-cafebabe", "/workspace/ipc/mine-cafebabe"], []]


async def test_the_environment_is_what_was_meant_and_no_more(
    python_containers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the dispatcher was started with goes along; what the group's configuration says does."""
    monkeypatch.setenv("NANOCLAW_GATEWAY_TOKEN", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://secret")
    python_containers.runtime = await python_containers.successor()
    found = await inside(python_containers, "found = dict(os.environ)", env={"MODEL": "small"})
    ours = {
        *("HOME", "LANG", "PYTHONDONTWRITEBYTECODE", "TRACEPARENT", "NANOCLAW_IPC_DIR", "NANOCLAW_GROUP_DIR"),
        *("NANOCLAW_GROUP", "NANOCLAW_GROUP_FOLDER", "NANOCLAW_CHAT_JID", "NANOCLAW_IS_MAIN", "NANOCLAW_TASK_ID"),
        *("NANOCLAW_ATTEMPT", "MODEL"),
    }
    of_the_image = {"PATH", "PYTHONPATH", "HOSTNAME", "PWD", "LC_CTYPE", "PYTHONUNBUFFERED", "OLDPWD", "SHLVL", "_"}
    assert ours <= set(found) <= ours | of_the_image
    assert "secret" not in str(found)
    assert found["NANOCLAW_IPC_DIR"] == "/workspace/ipc"


async def test_limits_bite(python_containers: Any) -> None:
    """Processes, file size and open files, each as the group's configuration says."""
    found = await inside(
        python_containers,
        """
import signal, time
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
found = []
children = []
try:
    for _ in range(100):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError as error:
    found.append(error.errno)
for child in children:
    os.kill(child, signal.SIGKILL)
found.append(len(children))
for path in ("big", "/tmp/big", "/var/scratch/big"):
    try:
        with open(path, "ab") as file:
            for _ in range(3):
                file.write(b"x" * (1 << 20))
                file.flush()
    except OSError as error:
        found.append(error.errno)
try:
    files = [open("/dev/null") for _ in range(2000)]
except OSError as error:
    found.append(error.errno)
""",
        pids=20,
        file_size_mb=2,
    )
    assert found[0] == 11
    assert found[1] < 20
    assert set(found[2:5]) <= {27, 28}
    assert found[5] == 24


async def test_memory_is_limited_in_files_too(python_containers: Any) -> None:
    """What lies in /tmp and /dev/shm is memory, and counts: at the limit the kernel ends it, and that is named."""
    program = """
for number in range(40):
    open(f"/dev/shm/{number}", "wb").write(bytes(1 << 20))
kept = [bytearray(1 << 20) for _ in range(40)]
"""
    await python_containers.started("a-1", "", command=("python3", "-S", "-c", program), memory_mb=64)
    ended = await python_containers.runtime.wait("a-1")
    assert (ended.exit_code, ended.reason) == (137, EndReason.OUT_OF_MEMORY)


async def test_cpu_is_limited(python_containers: Any) -> None:
    """A tenth of a core: the kernel says that it held the agent back."""
    found = await inside(
        python_containers,
        """
import glob, time
while time.process_time() < 0.2:
    pass
path, = glob.glob("/sys/fs/cgroup/cpu/cpu.stat") + glob.glob("/sys/fs/cgroup/cpu.stat")
found = dict(line.split() for line in open(path))
""",
        cpu=0.1,
    )
    assert int(found["nr_throttled"]) > 0


async def test_other_processes_are_out_of_sight(python_containers: Any) -> None:
    """It sees its container's init and itself."""
    found = await inside(
        python_containers, "found = sorted(int(name) for name in os.listdir('/proc') if name.isdecimal())"
    )
    assert found[0] == 1
    assert len(found) == 2


async def test_instructions_are_shown_read_only_and_are_no_way_out(python_containers: Any) -> None:
    """CLAUDE.md is the operator's word; a link that an agent put in its place shows nothing at the next start."""
    group = python_containers.home / "groups" / "developer"
    group.mkdir(parents=True)
    (group / "CLAUDE.md").write_text("be kind")
    program = """
found = [open("CLAUDE.md").read()]
for change in (lambda: open("CLAUDE.md", "w"), lambda: os.remove("CLAUDE.md"), lambda: os.rename("CLAUDE.md", "x")):
    try:
        change()
        found.append("changed")
    except OSError:
        found.append("refused")
"""
    assert await inside(python_containers, program) == ["be kind", "refused", "refused", "refused"]
    secret = python_containers.home / "token"
    secret.write_text("secret")
    (group / "CLAUDE.md").unlink()
    (group / "CLAUDE.md").symlink_to(secret)
    assert await inside(python_containers, "found = os.path.exists('CLAUDE.md')", attempt_id="a-2") is False


async def test_the_group_keeps_its_files_and_a_mailbox_its_own(python_containers: Any) -> None:
    """Memory and sessions persist; who wrote them shows outside."""
    program = 'open("memory", "a").write("1"); found = os.getcwd()'
    assert await inside(python_containers, program) == "/workspace/group"
    await inside(python_containers, program, attempt_id="a-2")
    memory = python_containers.home / "groups" / "developer" / "memory"
    assert memory.read_text() == "11"
    assert memory.stat().st_uid == python_containers.uid


async def test_mounts_of_the_configuration_are_shown(python_containers: Any, tmp_path: Path) -> None:
    """Read-only unless it says otherwise."""
    (tmp_path / "data").write_text("42")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    found = await inside(
        python_containers,
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


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("{home}", "/data"),
        ("{home}/secrets", "/data"),
        ("{link}", "/data"),
        ("/", "/data"),
        ("/var/run/docker.sock", "/data"),
        ("/run", "/data"),
        ("{tmp}", "/workspace/ipc"),
        ("{tmp}", "/proc/x"),
        ("{tmp}", "/etc"),
        ("{tmp}", "/run/nanoclaw/agent"),
    ],
)
async def test_a_mount_that_would_show_the_house_or_the_engine_is_refused(
    containers: Any, tmp_path: Path, source: str, target: str
) -> None:
    """A slip of the configuration lets in no secret, no other group, no engine, and covers nothing of ours."""
    (containers.home / "secrets").mkdir()
    (tmp_path / "link").symlink_to(containers.home / "secrets")
    mount = Mount(source.format(home=containers.home, link=tmp_path / "link", tmp=tmp_path), target)
    with pytest.raises(NanoclawError) as caught:
        await containers.runtime.create(containers.spec("a-1", "exit", "0", mounts=(mount,)))
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "MOUNT_REFUSED")


async def test_an_image_runs_its_own_command_for_a_group_without_one(python_containers: Any) -> None:
    """The reference agent of the image reads its opening: this one names no task, and it says so."""
    await python_containers.started("a-1", "", command=())
    ended = await python_containers.runtime.wait("a-1")
    assert ended.exit_code == 1
    assert "nanoclaw agent: " in await python_containers.runtime.last_lines("a-1")


async def test_containers_say_whose_they_are(containers: Any) -> None:
    """An operator who looks at the engine finds the dispatch by the label, and the container by the attempt's name."""
    await containers.runtime.create(containers.spec("a-1", "exit", "0"))
    with engines.client() as api:
        (found,) = api.containers(all=True, filters={"label": [containers.site.label]})
    assert found["Names"] == [f"/{containers.name('a-1')}"]
    assert found["Labels"] == {
        "nanoclaw.home": os.path.realpath(containers.home),
        "nanoclaw.attempt": "a-1",
        "nanoclaw.dispatch_key": "a-1:READY->DOING:v3",
        "nanoclaw.task": "task-1",
        "nanoclaw.group": "developer",
    }
