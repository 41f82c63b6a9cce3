"""`nanoclaw provision`: what containers find ready, with whose owner."""

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_broker.secrets import open_key
from nanoclaw_cli.provision import SERVICES_UID, parts
from nanoclaw_cli.services import SERVICES
from nanoclaw_dispatcher.workspace import AGENT_UID
from nanoclaw_rpc import Credentials

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def owner(path: Path) -> tuple[int, int, int]:
    """User, group, mode."""
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


async def test_each_service_gets_its_own_secrets_and_no_others(nanoclaw: Any, home: Path) -> None:
    """Its token, who has which token, the broker's key and its providers' secrets; for the services' user alone."""
    (home / "secrets" / "broker").mkdir(parents=True, exist_ok=True)
    (home / "secrets" / "broker" / "github").write_text("a-secret-of-a-provider")
    assert (await nanoclaw("provision", "--owner", "1234:1235")).code == 0
    handed_out = home / "secrets" / "containers"
    for service in SERVICES:
        found = files(handed_out / service.name)
        wanted = {"credentials.json", f"services/{service.name}.token"}
        wanted |= {f"tls/services/{service.name}/{name}" for name in ("ca.crt", "tls.crt", "tls.key")}
        assert set(found) == wanted | ({"broker.key", "broker/github"} if service.name == "broker" else set())
        for name in found:
            assert owner(handed_out / service.name / name) == (SERVICES_UID, SERVICES_UID, 0o400)
        assert owner(handed_out / service.name) == (SERVICES_UID, SERVICES_UID, 0o500)
        credentials = Credentials.open(handed_out / service.name, own=f"service:{service.name}")
        token = credentials.token_file(f"service:{service.name}").read_text().strip()
        caller = credentials.identify(token)
        assert caller is not None
        assert caller.principal == f"service:{service.name}"
    assert len(open_key(handed_out / "broker" / "broker.key")) == 32
    assert owner(home / "secrets" / "operators" / "founder.token")[:2] == (1234, 1235)
    assert owner(home / "attempts") == (SERVICES_UID, SERVICES_UID, 0o751)
    assert SERVICES_UID != AGENT_UID


async def test_a_second_run_changes_nothing_and_a_new_operator_reaches_every_service(nanoclaw: Any, home: Path) -> None:
    """Keys and tokens stay; a file that did change is replaced whole, in the folder that the service has mounted."""
    assert (await nanoclaw("provision")).code == 0
    before = files(home / "secrets")
    assert (await nanoclaw("provision", "--json")).json["changed"] == []
    assert files(home / "secrets") == before
    folder = home / "secrets" / "containers" / "governance"
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    assert (await nanoclaw("operator", "add", "ana", "--role", "viewer")).code == 0
    assert (await nanoclaw("provision", "--json")).json["changed"] == [service.name for service in SERVICES]
    seen = os.open("credentials.json", os.O_RDONLY, dir_fd=held)
    assert b"operator:ana" in os.read(seen, 10_000)
    os.close(seen)
    os.close(held)


async def test_a_run_that_was_broken_off_is_ended_by_the_next(nanoclaw: Any, home: Path) -> None:
    """`make up` that is killed while it makes certificates starts everything the next time."""
    assert (await nanoclaw("provision")).code == 0
    folder = home / "secrets" / "tls"
    whole = set(files(home / "secrets"))
    (folder / "ca.key").rename(folder / "ca.key.new")
    for lost in (folder / "services" / "gateway", home / "secrets" / "containers" / "gateway"):
        shutil.rmtree(lost)
    assert (await nanoclaw("provision", "--json")).json["changed"] == ["gateway"]
    assert set(files(home / "secrets")) == whole


async def test_what_a_service_is_no_longer_given_is_taken_away(nanoclaw: Any, home: Path) -> None:
    """A provider's secret that an operator removed does not stay with the broker."""
    secret = home / "secrets" / "broker" / "github"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("a-secret-of-a-provider")
    assert (await nanoclaw("provision")).code == 0
    secret.unlink()
    assert (await nanoclaw("provision", "--json")).json["changed"] == ["broker"]
    assert not (home / "secrets" / "containers" / "broker" / "broker" / "github").exists()
    assert "broker" not in list(parts("gateway"))


async def test_a_wrong_owner_is_refused_by_name(nanoclaw: Any) -> None:
    """The message names the field and how to get it right."""
    ran = await nanoclaw("provision", "--owner", "ana")
    assert ran.code == 1
    assert "UID:GID" in ran.err
