"""What agents can do with mail: send one message."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import (
    Action,
    Effect,
    Environment,
    FailureMode,
    Params,
    Provider,
    Refused,
    Result,
)
from nanoclaw_broker.providers.email.message import message_id, written
from nanoclaw_broker.providers.email.server import MailServer
from nanoclaw_broker.providers.email.settings import SECRET, EmailSettings, domain_of, is_address
from nanoclaw_core.clock import from_text, utc_now

MOST_RECIPIENTS = 20
MOST_TEXT = 100_000


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError("must be a bare address in ASCII, like somebody@example.org")
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


Address = Annotated[str, Field(max_length=254), AfterValidator(_address)]


class Message(Params):
    """What sending takes. Everybody in `to` and `cc` gets it, or nobody."""

    to: tuple[Address, ...] = Field(min_length=1, max_length=MOST_RECIPIENTS, strict=False)
    cc: tuple[Address, ...] = Field(default=(), max_length=MOST_RECIPIENTS, strict=False)
    subject: Annotated[str, AfterValidator(_line)] = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1, max_length=MOST_TEXT, description="the message, as plain text")
    html: str = Field(default="", max_length=MOST_TEXT, description="the same as HTML, for who can show it")
    sender: Address | None = Field(default=None, description="of the operator's list; its first where left out")
    reply_to: Address | None = Field(default=None, description="a sender, or somebody who may be written to")

    @property
    def recipients(self) -> tuple[str, ...]:
        """Everybody, once."""
        return tuple(dict.fromkeys((*self.to, *self.cc)))


class Send(Action[Message]):
    """One message. Nobody can ask a mail server what it has taken over, so a person settles what ended unknown."""

    name: ClassVar[str] = "send"
    level: ClassVar[Level] = Level.L3
    unverified_level: ClassVar[Level | None] = Level.L2
    kind: ClassVar[Kind] = Kind.MUTATING
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.NONE
    description: ClassVar[str] = "send a message by mail, to recipients that the operator lists"
    params = Message
    failure_modes: ClassVar[tuple[FailureMode, ...]] = (
        FailureMode("EMAIL_RECIPIENT_REFUSED", "VALIDATION", 0.02),
        FailureMode("EMAIL_REFUSED", "PERMANENT", 0.01),
        FailureMode("EMAIL_DEFERRED", "TRANSIENT", 0.01),
        FailureMode("EMAIL_UNREACHABLE", "TRANSIENT", 0.005),
        FailureMode("EMAIL_LOGIN_REFUSED", "PERMISSION", 0.001),
        FailureMode("NO_REPLY", "TRANSIENT", 0.001),
    )

    def __init__(self, settings: EmailSettings, server: MailServer) -> None:
        self._settings = settings
        self._server = server

    def check(self, params: Message) -> None:
        """There is a server, and everybody who is named may be."""
        settings = self._settings
        if not settings.host:
            step = "ask an operator to write [email] into config/providers.toml"
            raise Refused("EMAIL_NOT_CONFIGURED", "no mail server is configured", step)
        if len(params.recipients) > MOST_RECIPIENTS:
            raise Refused("TOO_MANY_RECIPIENTS", f"to, cc: more than {MOST_RECIPIENTS} together", "send two messages")
        if params.sender is not None and params.sender not in settings.senders:
            known = ", ".join(settings.senders)
            raise Refused("SENDER_NOT_ALLOWED", f"sender: {params.sender} is not on the list", f"use one of {known}")
        strangers = [one for one in params.recipients if not settings.lets_reach(one)]
        if strangers:
            step = "ask an operator to add them to config/providers.toml, [email] recipients"
            raise Refused("RECIPIENT_NOT_ALLOWED", f"to, cc: {', '.join(strangers)} may not be written to", step)
        answers_to = params.reply_to
        if answers_to is not None and answers_to not in settings.senders and not settings.lets_reach(answers_to):
            step = "name a sender, or somebody who may be written to"
            raise Refused("REPLY_TO_NOT_ALLOWED", f"reply_to: answers may not go to {answers_to}", step)

    def summary(self, params: Message) -> str:
        """How many, and where; nothing of what it says."""
        domains = ", ".join(sorted({domain_of(one) for one in params.recipients}))
        return f"to {len(params.recipients)} at {domains}"

    def render(self, params: Message) -> str:
        """The message as its readers get it."""
        lines = [f"From: {self._sender(params)}", f"To: {', '.join(params.to)}"]
        lines += [f"Cc: {', '.join(params.cc)}"] if params.cc else []
        lines += [f"Reply-To: {params.reply_to}"] if params.reply_to else []
        lines += [f"Subject: {params.subject}", "", params.text]
        lines += ["", "As HTML:", params.html] if params.html else []
        return "\n".join(lines)

    async def execute(self, params: Message, effect: Effect) -> Result:
        """Taken over by the server, for everybody."""
        sender = self._sender(params)
        id = message_id(effect.key, domain_of(sender))
        message = written(
            id=id,
            date=from_text(effect.created_at) if effect.created_at else utc_now(),
            sender=sender,
            to=params.to,
            cc=params.cc,
            reply_to=params.reply_to or "",
            subject=params.subject,
            text=params.text,
            html=params.html,
        )
        words = await self._server.deliver(sender, params.recipients, message)
        data = {"message_id": id, "recipients": list(params.recipients), "server": words}
        return Result(data, f"taken over for {len(params.recipients)}")

    def _sender(self, params: Message) -> str:
        return params.sender or self._settings.senders[0]


def provider(environment: Environment) -> Provider:
    """The provider. Raises INVALID_SETTING."""
    settings = environment.section("email", EmailSettings)
    return Provider(
        "email",
        "send mail by the operator's server",
        (Send(settings, MailServer(settings, environment.secret)),),
        required_secrets=(SECRET,) if settings.username else (),
    )
