"""`nanoclaw certs`, and the command over TCP: with a certificate anywhere, with a token on this machine only."""

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw_cli.addresses import Addresses
from nanoclaw_cli.services import SERVICES
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import Credentials, Server, Tls
from nanoclaw_rpc.tls import folder_of


@pytest.fixture
async def at(far_side: Any, home: Path, credentials: Credentials, nanoclaw: Any) -> AsyncIterator[str]:
    """All four services on loopback ports with TLS; what --at takes to find them."""
    assert (await nanoclaw("certs", "init")).code == 0
    assert (await nanoclaw("certs", "operator", "founder")).code == 0
    servers = []
    for service in SERVICES:
        principal = f"service:{service.name}"
        tls = Tls(folder_of(home / "secrets", principal), principal)
        options: dict[str, Any] = {"credentials": credentials, "drain_seconds": 0.2, "tls": tls}
        servers.append(Server(listen=["127.0.0.1:0"], services=[far_side.spec(service.name)], **options))
        await servers[-1].start()
    yield ",".join(f"{one.name}={server.addresses[0]}" for one, server in zip(SERVICES, servers, strict=True))
    for server in servers:
        await server.stop()


async def test_init_makes_what_show_shows(nanoclaw: Any, home: Path) -> None:
    """An authority and five services; an operator's on top; days left for programs and people."""
    ran = await nanoclaw("certs", "init", "--days", "40", "--ca-days", "400", "--host", "governance=gov.example.com")
    assert (ran.code, ran.err) == (0, "")
    assert str(home / "secrets" / "tls" / "ca.key") in ran.out
    assert (await nanoclaw("certs", "operator", "founder", "--days", "10")).code == 0
    rows = {one["principal"]: one for one in (await nanoclaw("certs", "show", "--json")).json}
    services = {f"service:{name}" for name in ("broker", "dispatcher", "gateway", "governance", "ops")}
    assert set(rows) == services | {"operator:founder", "authority"}
    assert {rows[name]["days_left"] for name in services} == {39}
    assert (rows["operator:founder"]["days_left"], rows["operator:founder"]["state"]) == (9, "ends soon")
    assert (rows["authority"]["days_left"], rows["authority"]["state"]) == (399, "good")
    assert "gov.example.com" in rows["service:governance"]["hosts"]
    for one in rows.values():
        assert stat.S_IMODE(Path(one["file"]).stat().st_mode) == 0o600
    out = (await nanoclaw("certs", "show")).out
    assert "operator:founder" in out
    assert "ends soon" in out


async def test_nothing_is_overwritten_without_being_asked_for(nanoclaw: Any, home: Path) -> None:
    """A second init and a second certificate are refused, and say what to do instead."""
    await nanoclaw("certs", "init")
    await nanoclaw("certs", "operator", "founder")
    before = {path: path.read_bytes() for path in (home / "secrets" / "tls").rglob("*.*") if path.is_file()}
    for again in (("init",), ("operator", "founder")):
        ran = await nanoclaw("certs", *again)
        assert ran.code == 1
        assert ran.err.startswith("error CERTIFICATES_EXIST")
        assert "nanoclaw certs renew" in ran.err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("operator", "bob"), ("INVALID_FIELD: name", "nanoclaw operator add")),
        (("init", "--host", "governance"), ("INVALID_FIELD: host", "SERVICE=HOST")),
        (("init", "--host", "nobody=x"), ("INVALID_FIELD: host", "governance, broker")),
        (("init", "--host", "gateway=broker"), ("INVALID_FIELD: host", "cannot be a name of gateway")),
        (("show",), ("NO_AUTHORITY", "nanoclaw certs init")),
        (("renew",), ("NO_AUTHORITY", "nanoclaw certs init")),
    ],
)
async def test_what_cannot_be_done_is_told_with_the_next_step(nanoclaw: Any, arguments: Any, words: Any) -> None:
    """One line, exit code 1."""
    ran = await nanoclaw("certs", *arguments)
    assert ran.code == 1
    assert all(word in ran.err for word in words), ran.err


async def test_renewal_and_a_new_authority_by_commands_alone(nanoclaw: Any) -> None:
    """The three steps in their order; the third too early is refused."""
    await nanoclaw("certs", "init", "--days", "20")
    assert (await nanoclaw("certs", "renew", "--within", "10", "--json")).json == []
    renewed = (await nanoclaw("certs", "renew", "service:broker", "--days", "30", "--json")).json
    assert [(one["principal"], one["days_left"]) for one in renewed] == [("service:broker", 29)]
    added = (await nanoclaw("certs", "ca", "add", "--json")).json
    assert [one["authority"] for one in added] == ["newest", "old"]
    early = await nanoclaw("certs", "ca", "drop")
    assert (early.code, "AUTHORITY_IN_USE" in early.err, "nanoclaw certs renew" in early.err) == (1, True, True)
    assert {one["authority"] for one in (await nanoclaw("certs", "renew", "--json")).json} == {"newest"}
    assert len((await nanoclaw("certs", "ca", "drop", "--json")).json) == 1


async def test_the_command_works_over_tls_with_a_certificate_instead_of_a_token(
    nanoclaw: Any, far_side: Any, at: str, home: Path
) -> None:
    """Even where the token is gone: the certificate says who asks."""
    (home / "secrets" / "operators" / "founder.token").unlink()
    ran = await nanoclaw("--at", at, "--tls", "task", "list", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert far_side.callers == ["operator:founder"]
    status = (await nanoclaw("--at", at, "--tls", "status", "--json")).json
    assert all(one["serving"] for one in status["services"].values())
    assert not [name for name in status if name.endswith("_problem")], "all four are asked, each by its name"
    assert set(far_side.callers) == {"operator:founder"}


async def test_flags_and_variables_say_the_same(
    nanoclaw: Any, far_side: Any, at: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NANOCLAW_AT, NANOCLAW_TLS_ENABLED, NANOCLAW_TLS_DIR; a folder that holds another's certificate is refused."""
    moved = home / "mine"
    (home / "secrets" / "tls" / "operators" / "founder").rename(moved)
    for name, value in {"AT": at, "TLS_ENABLED": "1", "TLS_DIR": str(moved)}.items():
        monkeypatch.setenv(f"NANOCLAW_{name}", value)
    assert (await nanoclaw("task", "list")).code == 0
    assert far_side.callers == ["operator:founder"]
    ran = await nanoclaw("--tls-dir", str(home / "secrets/tls/services/broker"), "task", "list")
    assert ran.err.startswith("error CERTIFICATE_OF_ANOTHER")
    ran = await nanoclaw("--no-tls", "task", "list", "--json")
    assert json.loads(ran.out)["error"]["reason"] == "INVALID_SETTING", "a folder without TLS has no effect"


async def test_a_service_in_another_s_place_is_not_talked_to(nanoclaw: Any, far_side: Any, at: str) -> None:
    """The addresses of governance and broker exchanged: the command notices before it sends anything."""
    exchanged = at.replace("governance=", "x=").replace("broker=", "governance=").replace("x=", "broker=")
    ran = await nanoclaw("--at", exchanged, "--tls", "task", "list")
    assert "error PEER_IS_ANOTHER" in ran.err
    assert far_side.asked == []


async def test_a_token_is_not_sent_to_another_machine_in_clear_text(nanoclaw: Any, home: Path) -> None:
    """Refused before anything is dialled, with the way out."""
    for where in ("192.0.2.1", "broker=127.0.0.1:1,governance=192.0.2.1:50051"):
        ran = await nanoclaw("--at", where, "task", "list")
        assert ran.err.startswith("error NOT_ENCRYPTED")
        assert "--tls" in ran.err


def test_an_address_is_a_host_for_all_or_one_for_each() -> None:
    """What is not named has none, unless a host for all is given."""
    by_name = {service.name: service for service in SERVICES}
    both = Addresses.parse("10.1.2.3, broker=[::1]:7")
    assert both.target(by_name["governance"]) == "10.1.2.3:50051"
    assert both.target(by_name["broker"]) == "[::1]:7"
    assert both.remote() == ["10.1.2.3"]
    assert Addresses.parse("h:7000").target(by_name["dispatcher"]) == "h:7002"
    for bare in ("::1", "[::1]", "[::1]:50051"):
        assert Addresses.parse(bare).target(by_name["broker"]) == "[::1]:50052"
        assert Addresses.parse(bare).remote() == []
    for text in ("a,b", "nobody=h:1", "broker=h", "broker=h:x", "broker=:1", "broker=h:65536", "h:x", "h:", "h:65533"):
        with pytest.raises(NanoclawError) as caught:
            Addresses.parse(text)
        assert caught.value.reason == "INVALID_FIELD"
    with pytest.raises(NanoclawError) as caught:
        Addresses.parse("broker=h:1").target(by_name["gateway"])
    assert "gateway" in caught.value.message
