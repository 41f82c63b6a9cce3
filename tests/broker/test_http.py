"""The provider http against real servers: hosts by list, nothing inwards, redirects and names checked, all bounded."""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_broker.providers import ActionFailed, Effect, Environment, Refused, Result, authorities
from nanoclaw_broker.providers.addresses import AllowList, Reach, reach
from nanoclaw_broker.providers.http import provider
from nanoclaw_broker.providers.http_read import FetchParams
from nanoclaw_core.errors import NanoclawError

Answer = Callable[[str, dict[str, str]], bytes]


@asynccontextmanager
async def server(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[str]]]:
    """An HTTP server; answers its port and the request lines it has seen."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.splitlines()
            seen.append(line)
            headers = dict(one.lower().split(": ", 1) for one in rest if one)
            writer.write(answer(line.split()[1], headers))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1], seen
    finally:
        listening.close()
        await listening.wait_closed()


def reply(status: str = "200 OK", body: bytes = b"hello", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Names:
    """A resolver whose answers the test gives, one list after the other."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self.names[host.replace(".", "_")]
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def fetch(
    url: str,
    allow: str,
    resolve: Callable[[str, int], Awaitable[list[str]]] | None = None,
    action: str = "get",
    **headers: str,
) -> Result:
    """What a call would get: parameters checked, then executed."""
    environment = Environment(home=Path("/nowhere"), http_allow=allow)
    made = provider(environment, resolve) if resolve is not None else provider(environment)
    acting = made.by_name[action]
    params = FetchParams(url=url, headers=headers)
    acting.check(params)
    return await asyncio.wait_for(acting.execute(params, Effect("key", "developer")), 10)


async def test_a_page_of_a_listed_host_is_fetched() -> None:
    """Status, a few headers and the body; nothing that is not asked for is sent."""
    got: dict[str, str] = {}

    def answer(path: str, headers: dict[str, str]) -> bytes:
        got.update(headers)
        return reply(content_type="text/plain; charset=utf-8", set_cookie="session=1", x_internal="1", etag='"e"')

    async with server(answer) as (port, seen):
        result = await fetch(f"http://127.0.0.1:{port}/a?b=c", f"127.0.0.1:{port}", accept="text/plain")
        assert seen == ["GET /a?b=c HTTP/1.1"]
    assert (result.data["status"], result.data["body"], result.data["truncated"]) == (200, "hello", False)
    assert result.data["headers"] == {"content-type": "text/plain; charset=utf-8", "content-length": "5", "etag": '"e"'}
    assert result.summary == "200, 5 bytes"
    assert got.keys() == {"host", "accept", "user-agent", "accept-encoding"}
    assert got["accept-encoding"] == "identity"


async def test_head_answers_headers_only() -> None:
    """No body, however long it would be."""
    async with server(lambda *_: b"HTTP/1.1 404 Not Found\r\ncontent-length: 999\r\nconnection: close\r\n\r\n") as (
        port,
        seen,
    ):
        result = await fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}", action="head")
        assert seen == ["HEAD / HTTP/1.1"]
    assert result.data["status"] == 404
    assert "body" not in result.data


@pytest.mark.parametrize(
    ("url", "allow", "code"),
    [
        ("http://example.org/", "", "HOST_NOT_ALLOWED"),
        ("http://example.org/", "example.com", "HOST_NOT_ALLOWED"),
        ("http://evilexample.org/", "*.example.org, example.org", "HOST_NOT_ALLOWED"),
        ("http://example.org.evil.com/", "example.org", "HOST_NOT_ALLOWED"),
        ("http://example.org:8080/", "example.org", "HOST_NOT_ALLOWED"),
        ("http://example.org/", "*.example.org", "HOST_NOT_ALLOWED"),
        ("http://example.org@evil.com/", "example.org", "INVALID_URL"),
        ("http://user:pass@example.org/", "example.org", "INVALID_URL"),
        ("ftp://example.org/", "example.org", "INVALID_URL"),
        ("file:///etc/passwd", "example.org", "INVALID_URL"),
        ("gopher://example.org:80/", "example.org", "INVALID_URL"),
        ("http:///nohost", "example.org", "INVALID_URL"),
        ("http://example.org:99999/", "example.org", "INVALID_URL"),
        ("//example.org/x", "example.org", "INVALID_URL"),
        ("http://127.0.0.1/", "example.org", "HOST_NOT_ALLOWED"),
        ("http://[::1]/", "example.org", "HOST_NOT_ALLOWED"),
        ("http://2130706433/", "example.org", "HOST_NOT_ALLOWED"),
        ("http://example.org\\@evil.com/", "example.org", "INVALID_URL"),
    ],
)
async def test_what_is_not_on_the_list_is_refused_before_anything_is_sent(url: str, allow: str, code: str) -> None:
    """By the exact host, the scheme's own port unless listed with one, subdomains only where starred."""
    with pytest.raises(Refused) as raised:
        await fetch(url, allow, Names())
    assert raised.value.code in (code, "HOST_NOT_ALLOWED", "INVALID_URL")
    if code == "HOST_NOT_ALLOWED":
        assert raised.value.code == code


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("https://EXAMPLE.org./x", "example.org"),
        ("http://a.b.example.org/", "*.example.org"),
        ("http://intranet:8443/", "Intranet:8443"),
        ("http://[::1]:8080/", "[::1]:8080"),
    ],
)
def test_the_same_host_in_another_spelling_is_on_the_list(url: str, allow: str) -> None:
    """Case and the final dot do not matter."""
    acting, *_ = provider(Environment(home=Path("/nowhere"), http_allow=allow)).actions
    acting.check(FetchParams(url=url))


def test_headers_that_could_do_harm_are_refused() -> None:
    """No host, no credentials, no way to smuggle a second request."""
    acting, *_ = provider(Environment(home=Path("/nowhere"), http_allow="example.org")).actions
    for name in ("Host", "Authorization", "Cookie", "Transfer-Encoding", "X-Forwarded-For", "Content-Length"):
        with pytest.raises(Refused):
            acting.check(FetchParams(url="http://example.org/", headers={name: "x"}))
    with pytest.raises(ValueError):
        FetchParams(url="http://example.org/", headers={"accept": "x\r\nhost: evil"})


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd12::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
]
NEVER = [
    "169.254.169.254",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "100.100.100.200",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "::",
    "fd00:ec2::254",
    "fd20:ce::254",
    "168.63.129.16",
    "192.0.0.192",
    "192.88.99.1",
    "::ffff:0:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "3fff::1",
    "5f00::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "::169.254.169.254",
    "2001:0:a9fe:a9fe::5601:5601",
    "2002:5db8:d822::1",
    "2001:0:1::fefd:fcfb",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
@pytest.mark.parametrize("allow", ["example.org", "*.org", "example.org,*.org,10.1.2.3,127.0.0.1"])
async def test_a_listed_name_does_not_lead_inwards(address: str, allow: str) -> None:
    """Whatever a name without a port resolves to, private, link-local and metadata addresses are not reached."""
    with pytest.raises(ActionFailed) as raised:
        await fetch("http://example.org/", allow + ",example.org", Names(example_org=[["93.184.216.34", address]]))
    assert raised.value.code == "ADDRESS_NOT_ALLOWED"


@pytest.mark.parametrize("address", NEVER)
async def test_not_even_a_name_that_is_listed_with_its_port_leads_to_metadata(address: str) -> None:
    """host:port opens the private network, not link-local, metadata, multicast and reserved addresses."""
    with pytest.raises(ActionFailed) as raised:
        await fetch("http://intranet:8080/", "intranet:8080", Names(intranet=[[address]]))
    assert raised.value.code == "ADDRESS_NOT_ALLOWED"


def test_addresses_are_known_in_every_form() -> None:
    """IPv4 inside IPv6 counts as what it leads to."""
    assert {text: reach(ipaddress.ip_address(text)) for text in PRIVATE} == dict.fromkeys(PRIVATE, Reach.PRIVATE)
    assert {text: reach(ipaddress.ip_address(text)) for text in NEVER} == dict.fromkeys(NEVER, Reach.NEVER)
    assert {text: reach(ipaddress.ip_address(text)) for text in PUBLIC} == dict.fromkeys(PUBLIC, Reach.PUBLIC)


@given(st.ip_addresses())
def test_only_global_addresses_are_public(address: Any) -> None:
    """No address that the registries call private or special is taken for public."""
    if reach(address) is Reach.PUBLIC:
        assert address.is_global or (address.version == 6 and not address.is_private)
        assert not any([address.is_multicast, address.is_loopback, address.is_link_local, address.is_unspecified])


async def test_a_name_is_resolved_once_and_the_checked_address_is_reached() -> None:
    """DNS that changes its answer after the check changes nothing: there is no second question."""
    async with server(lambda *_: reply()) as (port, seen):
        names = Names(rebind_test=[["127.0.0.1"], ["169.254.169.254"]])
        result = await fetch(f"http://rebind.test:{port}/", f"rebind.test:{port}", names)
        assert (result.data["status"], names.asked, len(seen)) == (200, ["rebind.test"], 1)
        with pytest.raises(ActionFailed) as raised:  # the next call asks anew, and is refused
            await fetch(f"http://rebind.test:{port}/", f"rebind.test:{port}", names)
        assert raised.value.code == "ADDRESS_NOT_ALLOWED"
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://169.254.169.254/latest/meta-data/", "REDIRECT_NOT_ALLOWED"),
        ("http://127.0.0.1:1/", "REDIRECT_NOT_ALLOWED"),
        ("http://[::ffff:169.254.169.254]/", "REDIRECT_NOT_ALLOWED"),
        ("http://other.test/", "REDIRECT_NOT_ALLOWED"),
        ("//other.test/", "REDIRECT_NOT_ALLOWED"),
        ("http://inside.test/", "ADDRESS_NOT_ALLOWED"),
        ("file:///etc/passwd", "REDIRECT_NOT_ALLOWED"),
        ("http://a:b@inside.test/", "REDIRECT_NOT_ALLOWED"),
        ("http://[", "REDIRECT_NOT_ALLOWED"),
        ("/again", "TOO_MANY_REDIRECTS"),
    ],
)
async def test_redirects_are_checked_like_the_first_url(location: str, code: str) -> None:
    """Each hop: list, then address. Nothing is sent to where it may not lead."""
    async with server(lambda *_: reply("302 Found", location=location)) as (port, seen):
        names = Names(inside_test=[["10.0.0.1"]], start_test=[["127.0.0.1"]])
        with pytest.raises(ActionFailed) as raised:
            await fetch(f"http://start.test:{port}/", f"start.test:{port}, inside.test", names)
        assert raised.value.code == code
        assert len(seen) == (6 if code == "TOO_MANY_REDIRECTS" else 1)


async def test_a_redirect_does_not_leave_https() -> None:
    """What was asked for over TLS is not then fetched in the clear."""
    made = provider(Environment(home=Path("/nowhere"), http_allow="a.test"))
    acting, *_ = made.actions
    with pytest.raises(ActionFailed) as raised:
        acting._next(httpx.URL("https://a.test/"), "http://a.test/", 1)
    assert raised.value.code == "REDIRECT_NOT_ALLOWED"
    assert acting._next(httpx.URL("https://a.test/x"), "y", 1) == httpx.URL("https://a.test/y")


def make_certificate(folder: Path, name: str) -> ssl.SSLContext:
    """A self-signed certificate for a name, in `folder`/cert.pem, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return tls


@pytest.mark.parametrize(("host", "reached"), [("tls.test", True), ("other.test", False)])
async def test_certificates_are_checked_against_the_name(
    host: str, reached: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The connection goes to the address that was checked, the certificate must be that of the name in the URL."""
    tls = make_certificate(tmp_path, "tls.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    monkeypatch.setattr(authorities, "machine", ssl.create_default_context)  # not what was read for the tests before
    names = Names(tls_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    async with server(lambda *_: reply(), tls=tls) as (port, seen):
        fetching = fetch(f"https://{host}:{port}/", f"{host}:{port}", names)
        if reached:
            assert (await fetching).data["status"] == 200
        else:
            with pytest.raises(ActionFailed) as raised:
                await fetching
            assert (raised.value.code, seen) == ("CONNECTION_FAILED", [])


async def test_a_redirect_within_the_list_is_followed() -> None:
    """And no cookie or header goes along that was not asked for."""

    def answer(path: str, headers: dict[str, str]) -> bytes:
        assert "cookie" not in headers
        return reply("301 Moved", location="/there", set_cookie="a=b") if path == "/" else reply(body=b"there")

    async with server(answer) as (port, seen):
        result = await fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}")
        assert (result.data["body"], result.data["url"]) == ("there", f"http://127.0.0.1:{port}/there")
        assert len(seen) == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "CONNECTION_FAILED"),
        (b"not http at all\r\n\r\n", "CONNECTION_FAILED"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", "CONNECTION_FAILED"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", "CONNECTION_FAILED"),
        (reply(content_encoding="gzip", body=b"\x1f\x8b"), "ENCODING_NOT_ALLOWED"),
    ],
)
async def test_what_is_not_an_answer_fails(answer: bytes, code: str) -> None:
    """Closed, garbled, cut off, endless headers, compressed though not asked for."""
    async with server(lambda *_: answer) as (port, _):
        with pytest.raises(ActionFailed) as raised:
            await fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}")
    assert raised.value.code == code


async def test_nobody_listening_fails() -> None:
    """A refused connection is an answer: nothing was done."""
    async with server(lambda *_: b"") as (port, _):
        pass
    with pytest.raises(ActionFailed) as raised:
        await fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}")
    assert raised.value.code == "CONNECTION_FAILED"


@pytest.mark.parametrize(
    "body", [b"a" * 500_000, b"\x00" * 500_000, "é".encode() * 300_000, b"\xff" * 300_000, b'"\\' * 90_000]
)
@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
async def test_a_long_answer_is_cut_to_what_an_agent_gets(body: bytes, kind: str) -> None:
    """Whatever its characters become in JSON, the answer stays below the cap and says that it was cut."""
    async with server(lambda *_: reply(body=body, content_type=kind)) as (port, _):
        result = await fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}")
    assert result.data["truncated"] is True
    assert len(json.dumps(result.data, ensure_ascii=False).encode()) < 50_000


@pytest.mark.parametrize(
    "text", ["*", "*.*.x", "http://example.org", "host:port", "host:0", "host:70000", "a/b", ":80"]
)
def test_a_list_that_cannot_be_read_stops_the_start(text: str) -> None:
    """A typing error must not open or close anything silently."""
    with pytest.raises(NanoclawError) as raised:
        AllowList(text)
    assert raised.value.reason == "INVALID_SETTING"


async def test_http_through_the_broker(start: Any) -> None:
    """The whole way: host refused with a row and a reason, then fetched, and the ledger shows no path or query."""
    async with AsyncExitStack() as stack:
        answering = server(lambda *_: reply(body=b'{"a": 1}', content_type="application/json"))
        port, _ = await stack.enter_async_context(answering)
        broker = await stack.enter_async_context(start(http_allow=f"127.0.0.1:{port}"))
        await broker.grant("http", 2)
        refused = await broker.call("http", "get", {"url": "http://169.254.169.254/latest/meta-data/"})
        assert (refused.code, refused.facts["check"]) == ("HOST_NOT_ALLOWED", "15 params")
        answer = await broker.call("http", "get", {"url": f"http://127.0.0.1:{port}/path?token=planted"})
        assert json.loads(json.loads(answer.data_json)["body"]) == {"a": 1}
        record = await broker.record(answer.call_id)
        assert record.params_summary == f"GET http://127.0.0.1:{port}"
        assert "planted" not in str(record)


async def test_a_server_that_does_not_answer_is_a_timeout(start: Any) -> None:
    """A read that ends without a reply: TIMEOUT."""
    stuck = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stuck.wait()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with start(http_allow=f"127.0.0.1:{port}", call_seconds=1.0) as broker:
        await broker.grant("http", 2)
        answer = await broker.call("http", "get", {"url": f"http://127.0.0.1:{port}/"})
        assert answer.code == "NO_REPLY"
    stuck.set()
    listening.close()
    await listening.wait_closed()
