"""What compose.yaml promises of its containers, looked at from inside them, and the main job in them."""

import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import pytest
from jaeger import Jaeger
from stack import IMAGES, ROOT, SERVICES, Stack

from nanoclaw_cli.services import SERVICES as PORTS
from nanoclaw_core.errors import NanoclawError

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # the first build asks a registry

EVERYONE = (*SERVICES, "ingress")

LOOK = """
import json, os, pathlib, socket, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
def reaches(host, port):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False
def writable(path):
    try:
        (pathlib.Path(path) / "probe").touch()
        return True
    except OSError:
        return False
secrets = pathlib.Path("/run/secrets/nanoclaw")
print(json.dumps({
    "uid": os.getuid(), "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privs": int(status["NoNewPrivs"]), "seccomp": int(status["Seccomp"]),
    "root": [path for path in ("/", "/etc", "/opt/services", "/var/lib", "/run/secrets/nanoclaw") if writable(path)],
    "out": reaches(sys.argv[1], int(sys.argv[2])), "engine": os.path.exists("/var/run/docker.sock"),
    "secrets": sorted(str(path.relative_to(secrets)) for path in secrets.rglob("*") if path.is_file()),
    "groups": writable("/var/lib/nanoclaw/groups"), "store": writable("/var/lib/nanoclaw/store"),
}))
"""


@pytest.fixture
def outside(stack: Stack) -> Iterator[tuple[str, int]]:
    """A server beyond the engine: who gets a connection there could get one anywhere."""
    ours = f"{stack.address.rpartition('.')[0]}.1"
    with socket.create_server((ours, 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield ours, server.getsockname()[1]


def _accept(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


def look(stack: Stack, service: str, outside: tuple[str, int]) -> dict[str, object]:
    """What a program in the service's container finds."""
    words = ["docker", "--host", stack.host, "exec", stack.container(service), "python3", "-c", LOOK]
    ran = subprocess.run([*words, outside[0], str(outside[1])], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_only_the_broker_reaches_out_and_only_the_dispatcher_sees_the_engine(
    stack: Stack, outside: tuple[str, int]
) -> None:
    """Every other network has no way out; the engine's socket is in one container."""
    seen = {service: look(stack, service, outside) for service in EVERYONE}
    assert [service for service in EVERYONE if seen[service]["out"]] == ["broker"]
    assert [service for service in EVERYONE if seen[service]["engine"]] == ["dispatcher"]


def test_no_container_has_more_than_it_needs(stack: Stack, outside: tuple[str, int]) -> None:
    """Not root, no capability, no way to one, a read-only root; its own secrets and no other's; limits on all."""
    for service in EVERYONE:
        found = look(stack, service, outside)
        assert (found["uid"], found["capabilities"], found["no_new_privs"], found["seccomp"]) == (10001, 0, 1, 2)
        assert found["root"] == []
        assert found["groups"] == (service in ("dispatcher",)), service
        tokens = {name for name in found["secrets"] if name.endswith((".token", ".key"))}  # type: ignore[attr-defined]
        own = {f"services/{service}.token", f"tls/services/{service}/tls.key"} if service in SERVICES else set()
        assert tokens == own | ({"broker.key"} if service == "broker" else set())


def test_every_container_has_limits_and_bounds_its_log(stack: Stack) -> None:
    """Jaeger's, too, which is not ours: memory, CPUs, processes; restarted always, no capability, a read-only root."""
    for service in (*EVERYONE, *(["jaeger"] if stack.jaeger else [])):
        host = stack.api.inspect_container(stack.container(service))["HostConfig"]
        assert min(host["Memory"], host["NanoCpus"], host["PidsLimit"]) > 0, service
        assert (host["RestartPolicy"]["Name"], host["CapDrop"], host["ReadonlyRootfs"]) == ("always", ["ALL"], True)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def test_whoever_asks_the_engine_about_containers_reads_no_secret(stack: Stack) -> None:
    """Not in environment, command, labels, mounts: paths stand there, and the files are the services' own."""
    shown = json.dumps([stack.api.inspect_container(one["Id"]) for one in stack.api.containers(all=True)])
    files = [path for path in stack.secrets.rglob("*") if path.is_file()]
    words = {word for path in files for word in path.read_text().split() if len(word) >= 16}
    assert len(words) > 50
    assert not [word for word in words if word in shown]


async def test_nobody_gets_in_without_a_certificate(stack: Stack) -> None:
    """Neither in clear text nor over TLS with no name."""
    for service in PORTS:
        for channel in (
            grpc.aio.insecure_channel(f"{stack.address}:{service.port}"),
            grpc.aio.secure_channel(
                f"{stack.address}:{service.port}",
                grpc.ssl_channel_credentials((stack.secrets / "tls" / "ca.crt").read_bytes()),
                options=(("grpc.ssl_target_name_override", service.name),),
            ),
        ):
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            with pytest.raises((grpc.aio.AioRpcError, NanoclawError)) as refused:
                await check(b"", timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
            await channel.close()


def test_the_images_say_what_they_are_and_run_as_nobody_special(stack: Stack) -> None:
    """Labels, a user, and for the services a health check by gRPC; the agents' image holds nothing of the services."""
    for name in IMAGES:
        config = stack.api.inspect_image(name)["Config"]
        assert config["User"] in ("nanoclaw", "agent")
        for label in ("title", "description", "licenses", "version", "revision"):
            assert config["Labels"][f"org.opencontainers.image.{label}"]
    assert stack.api.inspect_image(IMAGES[0])["Config"]["Healthcheck"]["Test"][-1] == "nanoclaw_cli.probe"
    code = "import importlib.util as u; print([n for n in ('grpc', 'sqlalchemy', 'nanoclaw_broker') if u.find_spec(n)])"
    words = ["docker", "--host", stack.host, "run", "--rm", "--network", "none", IMAGES[1], "python3", "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_provisioning_again_changes_nothing_and_disturbs_nobody(stack: Stack) -> None:
    """`make up` over what runs: the same secrets, the same containers."""
    before = {service: stack.pid(stack.container(service)) for service in EVERYONE}
    assert "nothing to change" in stack.compose("run", "--rm", "setup")
    stack.compose("up", "-d")
    assert {service: stack.pid(stack.container(service)) for service in EVERYONE} == before


def test_a_copy_of_the_store_is_made_and_verified_as_docs_docker_md_says(stack: Stack) -> None:
    """By the page's own words, while the services run; it lies in a volume of its own, which outlives the container."""
    page = (ROOT / "docs" / "docker.md").read_text()
    lines = [line for line in page.splitlines() if "monday.db" in line]
    copied, verified = (shlex.split(line.removeprefix("deploy/compose ")) for line in lines)
    stack.compose(*copied)
    assert "whole" in stack.compose(*verified)
    stack.compose("up", "-d", "--no-deps", "--force-recreate", "governance")
    stack.wait_until_healthy()
    assert "whole" in stack.compose(*verified)


async def test_the_main_job_runs_in_containers(stack: Stack) -> None:
    """The demo's stories but the write, each attempt in a container of its own; Jaeger has the trace."""
    environ = {**stack.environ, "NANOCLAW_AT": stack.address, "NANOCLAW_HOME": str(stack.data)}
    environ["NANOCLAW_TLS_ENABLED"] = "1"
    words = [sys.executable, "-m", "nanoclaw_cli", "demo", "--compose", "deploy/compose"]
    ran = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}{stack.logs()[-4000:]}"
    assert "chain whole, state equals the fold of the log" in ran.stdout
    assert "left out: the write with two votes" in ran.stdout
    if not stack.jaeger:
        pytest.skip("the trace was not looked at: there is no Jaeger (make jaeger, deploy/jaeger-image)")
    traced = re.search(r"^trace of \S+: ([0-9a-f]{32})", ran.stdout, re.MULTILINE)
    assert traced is not None
    seen = Jaeger("", f"http://{stack.address}:16686")
    trace = await seen.trace(traced[1], lambda spans: any(span["operationName"] == "task.create" for span in spans))
    services = {process["serviceName"].removeprefix("nanoclaw-") for process in trace["processes"].values()}
    assert {name.partition(":")[0] for name in services} >= {*SERVICES, "agent"}
