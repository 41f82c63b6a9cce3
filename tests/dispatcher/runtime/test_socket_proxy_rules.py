"""The socket proxy of deploy/socket-proxy, before a real engine: it passes what the dispatcher does, and no more."""

import asyncio
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import engines
import pytest
import pytest_asyncio

from nanoclaw_dispatcher.container_spec import configuration, prepare
from nanoclaw_dispatcher.runtime import RunState

# The SDK leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(600),  # the first build asks Debian for haproxy
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

FOLDER = Path(__file__).parents[3] / "deploy" / "socket-proxy"
BASE = os.environ.get("BASE_IMAGE", "nanoclaw-base:bookworm")


@pytest.fixture(scope="session")
def image() -> str:
    """As compose builds it."""
    engines.require_engine()
    name = "nanoclaw-test-socket-proxy"
    with engines.client() as here:
        if not here.images(BASE):
            pytest.skip(f"the engine here has no {BASE}: set BASE_IMAGE, or run deploy/base-image")
    words = ["docker", "build", "-q", "-t", name, "--build-arg", f"BASE_IMAGE={BASE}", str(FOLDER)]
    built = subprocess.run(words, capture_output=True, text=True, timeout=550)
    assert built.returncode == 0, built.stderr
    return name


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One for all, with a short path."""
    path = Path(tempfile.mkdtemp(prefix="nc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def port(image: str, home: Path) -> Iterator[int]:
    """Where it listens, for a data folder of the test's own."""
    if not engines.HOST.startswith("unix://"):
        pytest.skip("the engine here has no socket to stand before")
    path = engines.HOST.removeprefix("unix://")
    uid = os.getuid() or 10002
    words = ["docker", "run", "-d", "--rm", "-p", "127.0.0.1::2375", "-v", f"{path}:/var/run/docker.sock"]
    words += ["--group-add", str(Path(path).stat().st_gid), "--read-only", "--cap-drop", "ALL"]
    words += ["-e", f"NANOCLAW_DATA={os.path.realpath(home)}", "-e", f"NANOCLAW_AGENT_USER={uid}:{uid}", image]
    name = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        shown = subprocess.run(["docker", "port", name, "2375"], check=True, capture_output=True, text=True).stdout
        taken = int(shown.rpartition(":")[2])
        deadline = time.monotonic() + 20
        while ask(taken, "GET", "/version")[0] != 200:
            assert time.monotonic() < deadline, "the proxy does not serve"
            time.sleep(0.05)
        yield taken
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)


def ask(port: int, verb: str, path: str, body: str | None = None) -> tuple[int, str]:
    """One call; (0, why) where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(verb, path, body.encode() if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


@pytest_asyncio.fixture
async def behind(port: int, home: Path, docker_place: Any) -> AsyncIterator[Any]:
    """A place whose engine is reached through it."""
    place = docker_place(home, f"tcp://127.0.0.1:{port}", await asyncio.to_thread(engines.shell_image))
    await place.open()
    yield place
    await place.close()


async def test_a_dispatcher_does_all_its_work_through_it(behind: Any) -> None:
    """A whole life, a stop, a kill and a sweep; what stands in a string of the body is not taken for a member of it."""
    await behind.started("a-1", "polite", env={"GREETING": 'say "hä"\n', "JSON": '{"Privileged": true}'})
    assert (await behind.runtime.stop("a-1", 10)).exit_code == 5
    assert await behind.said("a-1", "bye")
    await behind.started("a-2", "stubborn", memory_mb=64)
    assert (await behind.runtime.stop("a-2", 0)).exit_code == 137
    assert len(await behind.runtime.list()) == 2
    await behind.runtime.remove("a-1")
    assert (await behind.runtime.inspect("a-1")).state is RunState.ABSENT


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("POST", "/containers/x/exec", "{}"),
        ("POST", "/containers/x/attach", None),
        ("PUT", "/containers/x/archive?path=/", "x"),
        ("GET", "/containers/x/archive?path=/", None),
        ("POST", "/images/create?fromImage=x", None),
        ("POST", "/build", "x"),
        ("DELETE", "/images/nanoclaw-os", None),
        ("POST", "/volumes/create", "{}"),
        ("POST", "/containers/x/update", "{}"),
        ("GET", "/images/../containers/x/archive/json", None),
        ("GET", "/v1.41/images/json/../../secrets", None),
        # Until version 1.24 of the API a start could say what the container may do.
        ("POST", "/v1.20/containers/x/start", '{"Privileged": true}'),
        ("POST", "/v1.20/containers/x/start", None),
        ("POST", "/v1.41/containers/x/start", '{"Privileged": true}'),
        ("POST", "/v1.20/containers/create", "{}"),
    ],
)
def test_no_other_call_is_passed_on(port: int, verb: str, path: str, body: str | None) -> None:
    """By name, with words that say who refuses."""
    assert ask(port, verb, path, body) == (403, "the socket proxy does not pass this call on")


def also(**more: Any) -> Callable[[dict[str, Any]], str]:
    """Members of HostConfig that are added, or others."""
    return lambda config: json.dumps(config | {"HostConfig": config["HostConfig"] | more})


def besides(text: str) -> Callable[[dict[str, Any]], str]:
    """Text within HostConfig, for what only a parser makes of it."""
    return lambda config: json.dumps(config).replace('"HostConfig": {', '"HostConfig": {' + text + ", ")


def inner(text: str) -> Callable[[dict[str, Any]], str]:
    """The same at the end of it, where a parser takes it for the last word."""
    return lambda config: json.dumps(config)[:-2] + text + "}}"


def end(text: str) -> Callable[[dict[str, Any]], str]:
    """At the end of everything."""
    return lambda config: json.dumps(config)[:-1] + text + "}"


def without(name: str) -> Callable[[dict[str, Any]], str]:
    """A member of HostConfig left out."""
    return lambda config: also()({**config, "HostConfig": {k: v for k, v in config["HostConfig"].items() if k != name}})


def mount(source: str, **more: Any) -> Callable[[dict[str, Any]], str]:
    """One more mount."""
    one = {"Type": "bind", "Source": source, "Target": "/data", **more}
    return lambda config: also(Mounts=[*config["HostConfig"]["Mounts"], one])(config)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(also(Privileged=True), id="privileged"),
        pytest.param(besides('"pRIVILEGED" : true'), id="in other letters"),
        pytest.param(besides('"Privile\\u0067ed": true'), id="a letter by its number"),
        pytest.param(besides('"Device\\u017f": []'), id="a letter that folds to another"),
        pytest.param(besides('"Deviceſ": []'), id="the same as it is"),
        pytest.param(also(CapAdd=["SYS_ADMIN"]), id="a capability"),
        pytest.param(without("CapDrop"), id="all capabilities of an engine's default"),
        pytest.param(besides('"CapDrop": []'), id="said twice"),
        pytest.param(also(SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"]), id="without seccomp"),
        pytest.param(also(Devices=[]), id="devices"),
        pytest.param(also(PidMode="host"), id="the processes of the machine"),
        pytest.param(also(IpcMode="host"), id="its shared memory"),
        pytest.param(also(NetworkMode="host"), id="its network"),
        pytest.param(without("NetworkMode"), id="a network by default"),
        pytest.param(also(ReadonlyRootfs=False), id="a root to write on"),
        pytest.param(also(Binds=["/:/host"]), id="the root of the machine"),
        pytest.param(mount("/"), id="by a mount"),
        pytest.param(mount("/var/run/docker.sock"), id="the engine"),
        pytest.param(lambda config: mount(f"{_data(config)}/../x")(config), id="out of the data folder"),
        pytest.param(lambda config: mount(f"{_data(config)}-x")(config), id="beside the data folder"),
        pytest.param(lambda config: mount(f"{_data(config)}/x", Type="volume")(config), id="a volume"),
        pytest.param(mount("x", VolumeOptions={"DriverConfig": {}}), id="a volume of a driver"),
        pytest.param(also(VolumesFrom=["nanoclaw-broker-1"]), id="what the broker has"),
        pytest.param(lambda config: json.dumps(config | {"User": "0:0"}), id="root"),
        pytest.param(
            lambda config: json.dumps({k: v for k, v in config.items() if k != "User"}), id="the image's user"
        ),
        pytest.param(end(', "hostconfig": null'), id="all of it taken back"),
        pytest.param(end(', "user": "0:0"'), id="root, said twice"),
        pytest.param(inner(', "networkMode": "host"'), id="a network, said twice"),
        pytest.param(inner(', "readonlyRootfs": false'), id="a root to write on, said twice"),
        pytest.param(without("ReadonlyRootfs"), id="a root to write on by default"),
        pytest.param(without("SecurityOpt"), id="new privileges"),
        pytest.param(lambda config: also(Binds=[f"{_data(config)}/../x:/x"])(config), id="out of it by a bind"),
        pytest.param(end(f', "x": "{"y" * 140_000}"'), id="more than is looked at"),
        pytest.param(lambda config: "{}", id="nothing said"),
    ],
)
def test_no_other_container_is_passed_on(
    port: int, home: Path, docker_place: Any, change: Callable[[dict[str, Any]], str]
) -> None:
    """Each of these makes of a dispatcher that was taken over the machine's root, or somebody in another's data."""
    place = docker_place(home, f"tcp://127.0.0.1:{port}", "image")
    spec = place.spec("a-1", "exit", "0")
    prepare(spec, place.site)
    config = configuration(spec, place.site, {})
    assert ask(port, "POST", "/v1.41/containers/create?name=x", json.dumps(config))[0] == 404, "the image is not there"
    status, text = ask(port, "POST", "/v1.41/containers/create?name=x", change(config))
    assert (status, text) == (403, "the socket proxy does not pass on such a container")


def _data(config: dict[str, Any]) -> str:
    data: str = config["Labels"]["nanoclaw.home"]
    return data
