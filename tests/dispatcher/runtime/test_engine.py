"""Without an engine: what its failures are called, and what a dispatcher makes of its settings."""

import asyncio
import http.server
import json
import os
import socketserver
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import engine_errors, groups, settings
from nanoclaw_dispatcher.container_site import may_enter, share
from nanoclaw_dispatcher.container_spec import configuration, prepare
from nanoclaw_dispatcher.docker_engine import check_host
from nanoclaw_dispatcher.docker_runtime import DockerRuntime
from nanoclaw_dispatcher.process_runtime import ProcessRuntime
from nanoclaw_dispatcher.runtimes import built_in

# The SDK leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.mark.parametrize(
    ("status", "text", "kind", "reason"),
    [
        (404, "No such image: x:latest", Kind.PRECONDITION, "IMAGE_MISSING"),
        (500, "mkdir /var/lib/docker/x: no space left on device", Kind.UNAVAILABLE, "ENGINE_DISK_FULL"),
        (400, "write: disk quota exceeded", Kind.UNAVAILABLE, "ENGINE_DISK_FULL"),
        (400, "bind source path does not exist: /x", Kind.PRECONDITION, "DATA_NOT_ON_ENGINE"),
        (400, "invalid mount config", Kind.PRECONDITION, "ENGINE_REFUSES"),
        (403, "", Kind.PRECONDITION, "ENGINE_FORBIDS"),
        (500, "containerd is gone", Kind.UNAVAILABLE, "ENGINE_FAILED"),
        (503, "starting", Kind.UNAVAILABLE, "ENGINE_FAILED"),
    ],
)
def test_each_failure_of_an_engine_has_a_name_and_a_next_step(status: int, text: str, kind: Kind, reason: str) -> None:
    """What passes is UNAVAILABLE and waited for; what somebody has to change is PRECONDITION and says what."""
    error = engine_errors.answered("create container x", status, text)
    assert (error.kind, error.reason) == (kind, reason)
    assert error.next_step


async def test_an_engine_that_is_away_does_not_keep_a_dispatcher_from_starting(home: Path, docker_place: Any) -> None:
    """What needs it waits by UNAVAILABLE; groups of other runtimes are served meanwhile."""
    place = docker_place(home, f"unix://{home}/no.sock", "image")
    await place.open()
    for call in (place.runtime.inspect("a-1"), place.runtime.list(), place.runtime.create(place.spec("a-1", "exit"))):
        with pytest.raises(NanoclawError) as caught:
            await call
        assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "ENGINE_UNREACHABLE")
    await place.release()


async def test_an_engine_that_says_nothing_is_given_up_on_time(home: Path, docker_place: Any) -> None:
    """Each call ends within its time-out, several at once take no longer, and the loop runs on beside them."""
    gone = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_unix_server(hang, f"{home}/silent.sock")
    place = docker_place(home, f"unix://{home}/silent.sock", "image", seconds=1)
    began, ticks = time.monotonic(), 0
    await place.open()
    calls = asyncio.gather(*(place.runtime.inspect(f"a-{number}") for number in range(20)), return_exceptions=True)
    while not calls.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert {error.reason for error in await calls} == {"ENGINE_SILENT"}
    assert time.monotonic() - began < 8
    assert ticks > 20
    await place.release()
    gone.set()
    server.close()


class WithoutCgroups(http.server.BaseHTTPRequestHandler):
    """An engine that makes containers, and warns that it discards their limits, as one on a bare kernel does.

    A rootless one without cgroup v2 makes them without a warning: only its `info` says so.
    """

    made: ClassVar[list[str]] = []
    info: ClassVar[dict[str, Any]] = {}
    WARNING = (
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
    )

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            self._answer(200, {"ApiVersion": "1.41"})
        elif self.path.endswith("/info"):
            self._answer(200, self.info)
        elif "/images/" in self.path:
            self._answer(200, {"Config": {"Cmd": ["true"]}})
        else:
            self._answer(404, {"message": "no such container"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.made.append(self.path.rpartition("=")[2])
        self._answer(201, {"Id": "x", "Warnings": [self.WARNING]})

    def do_DELETE(self) -> None:
        self.made.remove(self.path.partition("?")[0].rpartition("/")[2])
        self._answer(204, {})

    def _answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode() if status != 204 else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "unix"


@pytest.mark.parametrize(
    ("info", "said"),
    [({}, WithoutCgroups.WARNING), ({"MemoryLimit": False, "CpuCfsQuota": True, "PidsLimit": False}, "memory, pids")],
)
async def test_an_engine_that_discards_limits_is_refused(
    home: Path, docker_place: Any, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], said: str
) -> None:
    """An agent without limits takes the machine with it; a container that was made is removed again."""
    monkeypatch.setattr(WithoutCgroups, "info", info)
    server = socketserver.ThreadingUnixStreamServer(f"{home}/bare.sock", WithoutCgroups)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    place = docker_place(home, f"unix://{home}/bare.sock", "image")
    with pytest.raises(NanoclawError) as caught:
        await DockerRuntime(place.site, place.host).create(place.spec("a-1", "exit", "0"))
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "ENGINE_WITHOUT_LIMITS")
    assert caught.value.message.endswith(f"to its limits: {said}")
    assert WithoutCgroups.made == []
    await place.release()
    await asyncio.to_thread(server.shutdown)
    server.server_close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUNTIME", "podman"),
        ("IMAGE", " "),
        ("DOCKER_DATA", "var"),
        ("DOCKER_DATA", "/srv/../data"),
        ("DOCKER_DATA", "/srv/a:b"),
        ("DOCKER_PREFIX", "-x"),
        ("DOCKER_SECONDS", "0"),
        ("AGENT_UID", "0"),
    ],
)
def test_a_setting_that_does_not_fit_stops_the_start(variable: str, value: str) -> None:
    """By the variable's name; agents never run as root."""
    with pytest.raises(NanoclawError) as caught:
        settings.load({f"NANOCLAW_DISPATCHER_{variable}": value})
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "INVALID_SETTING")
    assert variable in caught.value.message


def test_the_engine_is_where_our_setting_says_or_else_where_dockers_does() -> None:
    """DOCKER_HOST is what rootless engines set; ours wins."""
    assert settings.load({"DOCKER_HOST": "unix:///a"}).docker_host == "unix:///a"
    both = {"DOCKER_HOST": "unix:///a", "NANOCLAW_DISPATCHER_DOCKER_HOST": "tcp://proxy:2375"}
    assert settings.load(both).docker_host == "tcp://proxy:2375"


@pytest.mark.parametrize("host", ["ssh://me@there", "npipe:////./pipe/x", "tcp://proxy", "fd://", "https://there:2376"])
def test_an_address_that_leads_nowhere_is_refused_at_the_start(host: str) -> None:
    """Not when the first task waits for it."""
    with pytest.raises(NanoclawError, match="INVALID_SETTING"):
        check_host(host)


def test_a_dispatcher_has_the_runtimes_that_its_groups_name(home: Path) -> None:
    """And those whose attempts are still to be adopted, though no group names them any more."""
    docker = settings.Settings(home=home, runtime="docker")
    named = groups.load(runtime=docker.runtime)
    assert {group.runtime for group in named} == {"docker"}
    assert {name: type(one) for name, one in built_in(docker, named).items()} == {"docker": DockerRuntime}
    (home / "attempts" / "nc-1" / "run").mkdir(parents=True)
    assert set(built_in(docker, named)) == {"docker", "process"}
    process = settings.Settings(home=home)
    assert {name: type(one) for name, one in built_in(process, groups.load()).items()} == {"process": ProcessRuntime}
    (home / "attempts" / "nc-2" / "container").mkdir(parents=True)
    assert set(built_in(process, groups.load())) == {"docker", "process"}


def test_a_group_says_its_runtime_itself_if_it_wants_another(tmp_path: Path) -> None:
    """The setting is for those that say nothing."""
    path = tmp_path / "groups.toml"
    path.write_text('[groups.main]\nrole = "main"\nruntime = "process"\n[groups.developer]\nrole = "executor"\n')
    assert {group.name: group.runtime for group in groups.load(path, runtime="docker")} == {
        "main": "process",
        "developer": "docker",
    }


@pytest.mark.parametrize(("mode", "may"), [(0o700, False), (0o750, True), (0o705, False), (0o770, True)])
def test_who_may_enter_a_folder_is_decided_as_the_kernel_does(tmp_path: Path, mode: int, may: bool) -> None:
    """By the owner's, the group's, or everybody's bits: the first that apply."""
    tmp_path.chmod(mode)
    found = tmp_path.stat()
    group = found.st_gid if found.st_gid else found.st_uid + 1
    if os.getuid() == 0:
        os.chown(tmp_path, 0, group)
    elif group == found.st_uid:
        pytest.skip("user and group of this folder are one number")
    assert may_enter(tmp_path, group) is may


def test_a_dispatcher_in_a_container_names_folders_as_the_engines_machine_does(home: Path, docker_place: Any) -> None:
    """Agents are its siblings: whatever is mounted is a path over there, and nothing is named as it is here."""
    place = docker_place(home, "unix:///x", "image")
    site = replace(place.site, data="/srv/nanoclaw")
    spec = place.spec("a-1", "exit", "0")
    group_dir = site.group_dir(spec.group)
    group_dir.mkdir(parents=True)
    (group_dir / "CLAUDE.md").write_text("be kind")
    prepare(spec, site)
    found = configuration(spec, site, {})
    sources = {mount["Target"]: mount["Source"] for mount in found["HostConfig"]["Mounts"]}
    assert sources == {
        "/workspace/group": "/srv/nanoclaw/groups/developer",
        "/workspace/group/CLAUDE.md": "/srv/nanoclaw/attempts/a-1/container/CLAUDE.md",
        "/run/nanoclaw": "/srv/nanoclaw/attempts/a-1/container/agent",
    }
    assert found["HostConfig"]["Binds"] == ["/srv/nanoclaw/attempts/a-1/ipc:/workspace/ipc:rw"]
    assert str(home) not in json.dumps(found)


def test_a_mailbox_that_lies_elsewhere_can_be_given_to_no_container(home: Path, docker_place: Any) -> None:
    """A gateway with another home than the dispatcher's would be mounted from a place that is not there."""
    place = docker_place(home, "unix:///x", "image")
    spec = replace(place.spec("a-1", "exit", "0"), mailbox=Path("/elsewhere/attempts/a-1/ipc"))
    with pytest.raises(NanoclawError) as caught:
        configuration(spec, place.site, {})
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "OUTSIDE_HOME")


def test_an_image_that_says_nothing_needs_a_group_that_does(home: Path, docker_place: Any) -> None:
    """A shell without a command would end at once, and look like an agent that did nothing."""
    place = docker_place(home, "unix:///x", "image")
    spec = place.spec("a-1", "", command=())
    assert configuration(spec, place.site, {"Entrypoint": ["a"], "Cmd": ["b"]})["Cmd"] == ["a", "b"]
    with pytest.raises(NanoclawError) as caught:
        configuration(spec, place.site, {"Entrypoint": None})
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "NO_COMMAND")


def test_a_group_folder_that_can_not_be_given_to_agents_is_refused() -> None:
    """Else the agent would find out, in the middle of its work, that it can keep nothing."""
    with pytest.raises(NanoclawError) as caught:
        share(Path("/proc/self"), os.getuid() + 7)  # whose owner nobody can change
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "GROUP_FOLDER_SHUT")
    assert "NANOCLAW_DISPATCHER_AGENT_UID" in caught.value.next_step


def test_files_for_agents_have_their_modes_whatever_our_umask(home: Path, docker_place: Any) -> None:
    """The agent reads its opening and marks its run; nobody else comes past the folder around them."""
    place = docker_place(home, "unix:///x", "image")
    before = os.umask(0o077)
    try:
        prepare(place.spec("a-1", "exit", "0"), place.site)
    finally:
        os.umask(before)
    folder = place.site.folder("a-1")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (folder, *(folder / "agent").iterdir())}
    assert modes == {"container": "0o700", "opening": "0o644", "ran": "0o666"}
    assert (folder / "agent").stat().st_mode & 0o777 == 0o755
