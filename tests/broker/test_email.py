"""Mail through a real SMTP server: to everybody named or to nobody, in no shape but the operator's."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.ledger import UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import ActionFailed, Effect, Environment, NoReply, Refused, Result
from nanoclaw_broker.providers.email import provider, server
from nanoclaw_broker.providers.email.actions import Message
from nanoclaw_core.errors import NanoclawError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

EFFECT = Effect("01CALL", "developer", "t1", "2026-11-21T10:00:00.000000Z")
PASSWORD = "a-password-that-only-the-broker-has"
LETTER = {"to": ["anna@example.org"], "subject": "Release", "text": "It is out.\n"}


class Inbox:
    """What a mail server does with messages: keeps them, but for what a test has it refuse."""

    def __init__(self) -> None:
        self.messages: list[Envelope] = []
        self.refuse: dict[str, str] = {}
        self.resets = 0
        self.over_tls: list[bool] = []
        self.dies = False
        self.waits: asyncio.Event | None = None

    async def handle_MAIL(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "MAIL" in self.refuse:
            return self.refuse["MAIL"]
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_RSET(self, smtp: SMTP, session: Session, envelope: Envelope) -> str:
        self.resets += 1
        return "250 OK"

    async def handle_DATA(self, smtp: SMTP, session: Session, envelope: Envelope) -> str:
        if "DATA" in self.refuse:
            return self.refuse["DATA"]
        self.messages.append(envelope)
        assert smtp.transport is not None
        self.over_tls.append(smtp.transport.get_extra_info("sslcontext") is not None)
        if self.waits is not None:
            await self.waits.wait()
        if self.dies:
            assert isinstance(smtp.transport, asyncio.Transport)
            smtp.transport.abort()
        return "250 queued as 42"

    def read(self) -> EmailMessage:
        """The one message that came."""
        (envelope,) = self.messages
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message


def knows(smtp: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    """One account."""
    assert isinstance(data, LoginPassword)
    return AuthResult(success=(data.login, data.password) == (b"agents", PASSWORD.encode()), handled=False)


class Post:
    """The provider, and the server it talks to."""

    def __init__(self, port: int, **config: Any) -> None:
        self.inbox = Inbox()
        self.config = {
            "host": "127.0.0.1",
            "port": port,
            "security": "plain",
            "senders": ["agents@example.com", "robot@example.com"],
            "recipients": ["example.org", "*.example.net", "Boss@elsewhere.test"],
            **config,
        }
        self.password = PASSWORD

    @property
    def action(self) -> Any:
        environment = Environment(Path("/nowhere"), "", lambda _: SecretStr(self.password), {"email": self.config})
        return provider(environment).by_name["send"]

    async def send(self, **params: Any) -> Result:
        action = self.action
        given = action.params.model_validate({**LETTER, **params})
        action.check(given)
        result: Result = await action.execute(given, EFFECT)
        return result


@asynccontextmanager
async def serving(inbox: Inbox, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    """A real SMTP server on a port of loopback. tls: from the first byte."""
    loop = asyncio.get_running_loop()
    sessions: list[SMTP] = []

    def session() -> SMTP:
        sessions.append(SMTP(inbox, hostname="mail.test", loop=loop, **options))
        return sessions[-1]

    listening = await loop.create_server(session, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for one in sessions:
            for transport in (one.transport, one._original_transport):
                if isinstance(transport, asyncio.Transport):
                    transport.abort()
        handling = [one._handler_coroutine for one in sessions if one._handler_coroutine is not None]
        for task in handling:
            task.cancel()
        await asyncio.gather(*handling, return_exceptions=True)


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    """In clear text, on this machine."""
    made = Post(0)
    async with serving(made.inbox) as port:
        made.config["port"] = port
        yield made


async def test_a_message_reaches_everybody_who_is_named(post: Post) -> None:
    """With the call's id as its Message-ID, in the name of the first sender; the time is that of the call."""
    result = await post.send(to=["anna@example.org", "boss@elsewhere.test"], cc=["ben@a.example.net"])
    message, envelope = post.inbox.read(), post.inbox.messages[0]
    assert envelope.rcpt_tos == ["anna@example.org", "boss@elsewhere.test", "ben@a.example.net"]
    assert envelope.mail_from == "agents@example.com"
    assert message["Message-ID"] == "<01CALL@example.com>"
    assert (message["From"], message["Cc"]) == ("agents@example.com", "ben@a.example.net")
    assert (message["Subject"], message["Auto-Submitted"]) == ("Release", "auto-generated")
    assert message["Date"].datetime == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert message.get_content().replace("\r\n", "\n") == "It is out.\n"
    assert result.data["server"] == "queued as 42"
    assert result.summary == "taken over for 3"


async def test_any_language_arrives_and_ascii_goes_over_the_wire(post: Post) -> None:
    """Text, HTML, subject; long lines, and lines that begin with a dot."""
    text = "Grüße 🎉\n.\n..dots\n" + "x" * 3000 + "\n"
    await post.send(subject="Grüße aus Köln", text=text, html="<p>Grüße</p>", reply_to="robot@example.com")
    content, message = post.inbox.messages[0].content, post.inbox.read()
    assert isinstance(content, bytes)
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) < 998
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None and html is not None  # noqa: PT018 - for mypy
    assert (plain.get_content().replace("\r\n", "\n"), message["Subject"]) == (text, "Grüße aus Köln")
    assert html.get_content().strip() == "<p>Grüße</p>"
    assert message["Reply-To"] == "robot@example.com"


@pytest.mark.parametrize(
    "params",
    [
        {"subject": "Hello\r\nBcc: spy@evil.test"},
        {"subject": "Hello\u2028Bcc: spy@evil.test"},
        {"subject": "Hello\x00"},
        {"to": ["anna@example.org\r\nRCPT TO:<spy@evil.test>"]},
        {"to": ["anna@example.org>,<spy@evil.test"]},
        {"to": ["anna@example.org, spy@evil.test"]},
        {"cc": ["Anna <anna@example.org>"]},
        {"reply_to": "anna@example.org\nBcc: spy@evil.test"},
        {"sender": "agents@example.com\n"},
        {"to": []},
        {"to": ["änna@example.org"]},
        {"text": "x" * 100_001},
        {"bcc": ["spy@evil.test"]},
    ],
)
async def test_nothing_in_a_message_becomes_a_header_or_a_command(post: Post, params: dict[str, Any]) -> None:
    """Line ends, lists and comments within an address, and members that are not known."""
    with pytest.raises(ValidationError):
        await post.send(**params)
    assert post.inbox.messages == []


@given(subject=st.text(min_size=1, max_size=60), text=st.text(min_size=1, max_size=300))
def test_whatever_is_accepted_has_the_headers_that_it_should_and_no_other(subject: str, text: str) -> None:
    """Whatever the characters; the subject that arrives is the one that was given."""
    from nanoclaw_broker.providers.email.message import written

    try:
        params = Message.model_validate({**LETTER, "subject": subject, "text": text})
    except ValidationError:
        return
    raw = written(
        id="<1@x.test>",
        date=datetime(2026, 11, 21, tzinfo=UTC),
        sender="a@x.test",
        to=params.to,
        cc=(),
        reply_to="",
        subject=params.subject,
        text=params.text,
        html="",
    )
    message = message_from_bytes(raw, policy=policy.default)
    expected = "From To Subject Date Message-ID Auto-Submitted Content-Type Content-Transfer-Encoding MIME-Version"
    assert sorted(message.keys()) == sorted(expected.split())
    assert (message["To"], "".join(message["Subject"].split())) == ("anna@example.org", "".join(subject.split()))


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"to": ["anna@evil.test"]}, "RECIPIENT_NOT_ALLOWED"),
        ({"cc": ["anna@sub.example.org"]}, "RECIPIENT_NOT_ALLOWED"),
        ({"to": ["anna@example.net"]}, "RECIPIENT_NOT_ALLOWED"),
        ({"to": ["anna@notexample.net"]}, "RECIPIENT_NOT_ALLOWED"),
        ({"to": ["else@elsewhere.test"]}, "RECIPIENT_NOT_ALLOWED"),
        ({"sender": "founder@example.com"}, "SENDER_NOT_ALLOWED"),
        ({"reply_to": "spy@evil.test"}, "REPLY_TO_NOT_ALLOWED"),
        (
            {"to": [f"a{n}@example.org" for n in range(20)], "cc": ["b@example.org"]},
            "TOO_MANY_RECIPIENTS",
        ),
    ],
)
async def test_only_who_is_on_the_lists_is_named(post: Post, params: dict[str, Any], code: str) -> None:
    """Recipients, senders, and where answers go; refused before anything leaves."""
    with pytest.raises(Refused) as refused:
        await post.send(**params)
    assert (refused.value.code, post.inbox.messages) == (code, [])


async def test_a_star_lets_anybody_be_written_to(post: Post) -> None:
    """Where the operator says so."""
    post.config["recipients"] = ["*"]
    await post.send(to=["anybody@anywhere.test"])
    assert len(post.inbox.messages) == 1


async def test_if_one_recipient_is_refused_nobody_gets_it(post: Post) -> None:
    """The transaction is given up before the message; the agent learns who it was."""
    post.inbox.refuse["ben@example.org"] = "550 no such user"
    with pytest.raises(ActionFailed) as failed:
        await post.send(to=["anna@example.org", "ben@example.org"])
    assert (failed.value.code, failed.value.facts["refused"]) == ("EMAIL_RECIPIENT_REFUSED", "ben@example.org")
    assert "550 no such user" in failed.value.message
    assert (post.inbox.messages, post.inbox.resets, failed.value.in_trouble) == ([], 1, False)


@pytest.mark.parametrize(
    ("at", "answer", "code", "in_trouble"),
    [
        ("anna@example.org", "450 greylisted, come back", "EMAIL_DEFERRED", False),
        ("MAIL", "451 not now", "EMAIL_DEFERRED", False),
        ("MAIL", "553 not yours", "EMAIL_REFUSED", False),
        ("DATA", "452 mailbox full", "EMAIL_DEFERRED", False),
        ("DATA", "554 looks like spam", "EMAIL_REFUSED", False),
        ("DATA", "421 closing", "EMAIL_DEFERRED", True),
    ],
)
async def test_a_no_of_the_server_is_an_answer_with_its_words(
    post: Post, at: str, answer: str, code: str, in_trouble: bool
) -> None:
    """4xx: later. 5xx: never. Nothing was sent, also where it comes after the message."""
    post.inbox.refuse[at] = answer
    with pytest.raises(ActionFailed) as failed:
        await post.send()
    assert (failed.value.code, failed.value.in_trouble) == (code, in_trouble)
    assert answer in failed.value.message
    assert "nothing was sent" in failed.value.message


async def test_a_server_that_dies_over_the_message_leaves_it_unknown(post: Post) -> None:
    """It has the message and has not said so: nobody knows."""
    post.inbox.dies = True
    with pytest.raises(NoReply):
        await post.send()
    assert len(post.inbox.messages) == 1


async def test_a_server_that_keeps_silent_over_the_message_leaves_it_unknown(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for its answer is bounded."""
    monkeypatch.setattr(server, "AFTER_SECONDS", 0.1)
    post.inbox.waits = asyncio.Event()
    with pytest.raises(NoReply):
        await post.send()
    post.inbox.waits.set()


@pytest.mark.parametrize("answer", ["xyz what", "354 go on", "999 no"])
async def test_an_answer_that_is_none_leaves_it_unknown(post: Post, answer: str) -> None:
    """Neither yes nor no."""
    post.inbox.refuse["DATA"] = answer
    with pytest.raises(NoReply):
        await post.send()


async def test_a_server_that_can_not_be_reached_got_nothing(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens; or somebody does and says nothing."""
    post.config["port"] = 9
    with pytest.raises(ActionFailed) as failed:
        await post.send()
    assert (failed.value.code, failed.value.in_trouble) == ("EMAIL_UNREACHABLE", True)
    monkeypatch.setattr(server, "BEFORE_SECONDS", 0.1)
    writers: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with mute:
        post.config["port"] = mute.sockets[0].getsockname()[1]
        with pytest.raises(ActionFailed) as failed:
            await post.send()
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    assert (failed.value.code, failed.value.in_trouble) == ("EMAIL_UNREACHABLE", True)


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """A certificate that vouches for itself, in `folder`/name.pem, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


SECURE = {"host": "localhost", "username": "agents"}


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_over_tls_the_broker_logs_in_with_its_password(tmp_path: Path, security: str) -> None:
    """STARTTLS and TLS from the first byte; the password is read for each message, so a new one is in force at once."""
    context = certificate(tmp_path, "localhost")
    post = Post(0, **SECURE, security=security, ca_file=str(tmp_path / "localhost.pem"))
    if security == "starttls":
        options: dict[str, Any] = {"tls_context": context, "require_starttls": True, "auth_required": True}
    else:
        # aiosmtpd sees only its own STARTTLS, not the TLS below it.
        options = {"tls": context, "auth_require_tls": False}
    async with serving(post.inbox, authenticator=knows, **options) as port:
        post.config["port"] = port
        await post.send()
        assert post.inbox.over_tls == [True]
        post.password = "another-password-of-the-broker"
        with pytest.raises(ActionFailed) as failed:
            await post.send()
    assert (failed.value.code, failed.value.in_trouble) == ("EMAIL_LOGIN_REFUSED", True)
    assert PASSWORD not in failed.value.message
    assert len(post.inbox.messages) == 1


async def test_a_server_that_is_not_who_it_should_be_gets_neither_password_nor_message(tmp_path: Path) -> None:
    """A certificate of somebody else's, one that nobody vouches for, and a server that drops STARTTLS."""
    other, own = certificate(tmp_path, "other.test"), certificate(tmp_path, "localhost")
    trusted = {"other": str(tmp_path / "other.test.pem"), "own": None, "none": None}
    for name, context in (("other", other), ("own", own), ("none", None)):
        post = Post(0, **SECURE, security="starttls", ca_file=trusted[name])
        asked: list[bytes] = []

        def listen(*given: Any, asked: list[bytes] = asked) -> AuthResult:
            asked.append(given[-1].password)
            return AuthResult(success=True)

        options: dict[str, Any] = {"tls_context": context, "authenticator": listen, "auth_require_tls": False}
        async with serving(post.inbox, **options) as port:
            post.config["port"] = port
            with pytest.raises(ActionFailed) as failed:
                await post.send()
        assert (failed.value.code, asked, post.inbox.messages) == ("EMAIL_UNREACHABLE", [], [])


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"security": "plain", "host": "mail.example.com"}, "plain"),
        ({"senders": []}, "senders"),
        ({"senders": ["Agents <agents@example.com>"]}, "senders"),
        ({"recipients": ["*@example.org"]}, "recipients"),
        ({"password": "in-the-file"}, "password"),
    ],
)
def test_a_table_that_can_not_be_right_stops_the_start(config: dict[str, Any], names: str) -> None:
    """It names what is wrong; clear text never leaves this machine."""
    with pytest.raises(NanoclawError, match=names) as error:
        _ = Post(25, **config).action
    assert error.value.reason == "INVALID_SETTING"


def test_an_approver_sees_the_whole_message_and_the_ledger_only_where_it_goes() -> None:
    """It is of L3, of L2 unverified, and only a person can say what became of it."""
    action = Post(25).action
    given = action.params.model_validate({**LETTER, "cc": ["ben@a.example.net"]})
    assert (action.level, action.unverified_level, action.unknown_ends_by) == (Level.L3, Level.L2, UnknownEnd.NONE)
    assert action.summary(given) == "to 2 at a.example.net, example.org"
    shown = "From: agents@example.com\nTo: anna@example.org\nCc: ben@a.example.net\nSubject: Release\n\nIt is out.\n"
    assert action.render(given) == shown


async def test_without_a_table_it_is_offered_and_says_what_is_missing() -> None:
    """A broker starts without any configuration."""
    made = provider(Environment(Path("/nowhere")))
    assert made.required_secrets == ()
    with pytest.raises(Refused, match="no mail server"):
        made.by_name["send"].check(Message.model_validate(LETTER))


async def test_a_message_through_a_broker(home: Path, post: Post, start: Any, governance: Any) -> None:
    """L2 under a grant that says allow_unverified; the same call again sends nothing more; one that died is UNKNOWN."""
    lines = [f"{name} = {value!r}" for name, value in post.config.items()]
    (home / "config").mkdir()
    (home / "config" / "providers.toml").write_text("[email]\n" + "\n".join(lines) + "\n")
    governance.put("t1")
    async with start() as broker:
        await broker.grant("email", pb.ACCESS_LEVEL_L2, allow_unverified=True)
        asked = {"task_id": "t1", "request_id": "mail-1"}
        first, again = [await broker.call("email", "send", LETTER, **asked) for _ in range(2)]
        assert (first.code, first.call_id) == ("OK", again.call_id)
        assert post.inbox.read()["Message-ID"] == f"<{first.call_id}@example.com>"
        post.inbox.dies = True
        lost = await broker.call("email", "send", LETTER, task_id="t1")
        assert lost.code == "EFFECT_UNKNOWN"
        assert (await broker.record(lost.call_id)).state == pb.CALL_STATE_UNKNOWN
