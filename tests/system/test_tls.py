"""The four services with mutual TLS between them, as docs/tls.md sets them up."""

import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pasted import between, paste

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc
from nanoclaw_cli.processes import signal_process
from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor, read_state, stop_orphans
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import Credentials, Tls, connect
from nanoclaw_rpc.authority import Authority
from nanoclaw_rpc.tls import folder_of

PAGE = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()


@pytest.fixture
def over_tcp(environ: dict[str, str], ports: dict[str, int]) -> dict[str, str]:
    """Settings with which the services find each other by TCP, all with TLS."""
    where = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    return environ | {
        "NANOCLAW_TLS_ENABLED": "1",
        "NANOCLAW_GOVERNANCE_BROKER": where["broker"],
        "NANOCLAW_BROKER_GOVERNANCE": where["governance"],
        "NANOCLAW_GATEWAY_GOVERNANCE": where["governance"],
        "NANOCLAW_GATEWAY_BROKER": where["broker"],
        "NANOCLAW_DISPATCHER_GOVERNANCE": where["governance"],
        "NANOCLAW_DISPATCHER_GATEWAY": where["gateway"],
    }


@pytest.fixture
async def founder(short_home: Path, over_tcp: dict[str, str]) -> AsyncIterator[Tls]:
    """The founder's certificate, while the four services run."""
    secrets = short_home / "secrets"
    Credentials.open(secrets)
    authority = Authority(secrets)
    authority.create(days=30, authority_days=60, hosts={})
    authority.issue("operator:founder", days=30)
    async with Supervisor(short_home, [sys.executable], over_tcp).running():
        yield Tls(folder_of(secrets, "operator:founder"), "operator:founder")


@pytest.mark.system
async def test_a_task_is_done_while_certificates_and_authority_are_changed_under_it(
    founder: Tls, ports: dict[str, int], short_home: Path
) -> None:
    """Agents, gates, mailboxes: every hop between services is TLS, and none of them breaks."""
    authority = Authority(short_home / "secrets")
    async with connect(f"127.0.0.1:{ports['governance']}", tls=founder, peer="governance") as channel:
        governance = governance_pb2_grpc.GovernanceServiceStub(channel)
        head = (await governance.GetStatus(pb.GetStatusRequest())).head
        watch = governance.WatchTasks(pb.WatchTasksRequest(cursor=head))
        await governance.CreateTask(
            pb.CreateTaskRequest(
                request_id="r0", id="t1", title="x", assigned_group="developer", gate=pb.GATE_SECURITY,
                task_type=pb.TASK_TYPE_SECURITY,
            )
        )  # fmt: skip
        changes = [lambda: authority.succeed(days=60), lambda: authority.renew(days=30), authority.retire]
        for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY):
            changes.pop(0)()
            await governance.TransitionTask(
                pb.TransitionTaskRequest(request_id=f"r{state}", task_id="t1", to_state=state)
            )
        async for row in watch:
            if row.activity.to_state == pb.TASK_STATE_DOING and changes:
                changes.pop(0)()
            assert row.activity.to_state != pb.TASK_STATE_BLOCKED, row.activity.reason
            if row.activity.to_state == pb.TASK_STATE_DONE:
                break
        facts = (await governance.ListActivities(pb.ListActivitiesRequest(task_id="t1", page_size=200))).activities
    assert not changes
    assert {"service:dispatcher", "operator:founder"} <= {fact.principal for fact in facts}
    with pytest.raises(NanoclawError) as caught:
        async with connect(f"127.0.0.1:{ports['governance']}", attempts=1) as channel:
            await governance_pb2_grpc.GovernanceServiceStub(channel).GetStatus(pb.GetStatusRequest())
    assert caught.value.reason == "HANDSHAKE_REFUSED"


@pytest.mark.skipif(
    shutil.which("grpcurl") is None,
    reason="grpcurl is not installed (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3)",
)
@pytest.mark.system
@pytest.mark.timeout(120)  # six seconds, but nine processes one after the other: a busy machine stretches them
async def test_the_page_about_tls_works_when_pasted(
    short_home: Path, over_tcp: dict[str, str], ports: dict[str, int]
) -> None:
    """From no certificate at all to services that take nobody without one, with the command and with grpcurl."""
    settings = {name: value for name, value in over_tcp.items() if name.startswith("NANOCLAW_")}
    settings |= {"NANOCLAW_HOME": str(short_home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    del settings["NANOCLAW_TLS_ENABLED"]  # the page turns it on
    before = "".join(f"export {name}='{value}'\n" for name, value in settings.items())
    page = f"```sh\n{before}\n```\n{between(PAGE, 'session')}"
    at = ",".join(f"{service.name}=127.0.0.1:{ports[service.name]}" for service in SERVICES)
    words = {
        "--at 127.0.0.1": f"--at {at}",
        "var/secrets": f"{short_home}/secrets",
        **{f"127.0.0.1:{service.port}": f"127.0.0.1:{ports[service.name]}" for service in SERVICES},
    }
    try:
        outputs = await paste(page, words, seconds=100)
    finally:  # where a block failed, before the last one stops them
        if "supervisor" in (running := read_state(short_home)):
            signal_process(*running["supervisor"], signal.SIGKILL)
        stop_orphans(short_home)
    assert all(f"● {service.name}" in outputs[2] for service in SERVICES), outputs[2]
    assert "problem" not in outputs[2]
