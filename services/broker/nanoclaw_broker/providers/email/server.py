"""One message through the operator's mail server: for all of its recipients or for none."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import SecretStr

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.base import ActionFailed, NoReply
from nanoclaw_broker.providers.email.settings import SECRET, EmailSettings, domain_of

if TYPE_CHECKING:
    from aiosmtplib import SMTP

BEFORE_SECONDS = 9.0
"""For all that comes before the message itself; until then nothing can have been sent."""
AFTER_SECONDS = 10.0
"""For the server to take it over."""
_GOODBYE_SECONDS = 0.5
_MOST_WORDS = 300
_LATER = "send it again later, under a new request_id"
_CLOSING = 421


class MailServer:
    """The server of the settings; a connection for each message. secret: a secret by name, asked for each message."""

    def __init__(self, settings: EmailSettings, secret: Callable[[str], SecretStr]) -> None:
        self._settings = settings
        self._secret = secret

    async def deliver(self, sender: str, recipients: Sequence[str], message: bytes) -> str:
        """The server has taken it over, for every recipient; its words. Raises ActionFailed, NoReply."""
        # Imported at the first message: a broker that sends none does not pay for it.
        from aiosmtplib import SMTPDataError, SMTPException

        client = self._client(sender)
        try:
            await self._prepare(client, sender, recipients, len(message))
            try:
                response = await client.data(message, timeout=AFTER_SECONDS)
            except SMTPDataError as error:
                if not 400 <= error.code < 600:
                    raise NoReply(f"the mail server's last word can't be read: {_words(error.message)}") from None
                raise _no(error.code, error.message, "the message") from None
            except (SMTPException, OSError) as error:
                raise NoReply(f"the mail server did not say whether it took it over: {type(error).__name__}") from None
            with suppress(SMTPException, OSError):
                await client.quit(timeout=_GOODBYE_SECONDS)
            return _words(response.message)
        finally:
            client.close()

    def _client(self, sender: str) -> "SMTP":
        from aiosmtplib import SMTP

        settings = self._settings
        password = self._secret(SECRET).get_secret_value() if settings.username else None
        return SMTP(
            hostname=settings.host,
            port=settings.at_port,
            username=settings.username or None,
            password=password,
            local_hostname=domain_of(sender),
            timeout=BEFORE_SECONDS,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            cert_bundle=settings.ca_file,
        )

    async def _prepare(self, client: "SMTP", sender: str, recipients: Sequence[str], size: int) -> None:
        """Up to where the message may follow. Whatever goes wrong here, nothing was sent."""
        from aiosmtplib import (
            SMTPAuthenticationError,
            SMTPException,
            SMTPRecipientRefused,
            SMTPResponseException,
            SMTPSenderRefused,
        )

        try:
            async with asyncio.timeout(BEFORE_SECONDS):
                await client.connect()
                options = [f"SIZE={size}"] if client.supports_extension("size") else []
                await client.mail(sender, options=options)
                refused: list[SMTPRecipientRefused] = []
                for recipient in recipients:
                    try:
                        await client.rcpt(recipient)
                    except SMTPRecipientRefused as error:
                        refused.append(error)
                if refused:
                    with suppress(SMTPException, OSError):
                        await client.rset()
                        await client.quit(timeout=_GOODBYE_SECONDS)
                    raise _refused_recipients(refused)
        except SMTPAuthenticationError as error:
            raise ActionFailed(
                "EMAIL_LOGIN_REFUSED",
                f"nothing was sent: the mail server refuses the login: {error.code} {_words(error.message)}",
                next_steps=(f"ask an operator to look at [email] username and the secret {SECRET}",),
                in_trouble=True,
            ) from None
        except SMTPSenderRefused as error:
            raise _no(error.code, error.message, f"the sender {sender}") from None
        except SMTPResponseException as error:
            raise _no(error.code, error.message, "the connection", in_trouble=True) from None
        except (SMTPException, OSError) as error:
            host = f"{self._settings.host}:{self._settings.at_port}"
            raise ActionFailed(
                "EMAIL_UNREACHABLE",
                f"nothing was sent: no way to {host} by {self._settings.security}: {_words(str(error))}",
                next_steps=(_LATER,),
                in_trouble=True,
            ) from None


def _no(code: int, words: str, what: str, *, in_trouble: bool = False) -> ActionFailed:
    """4xx: not now. Anything else: not at all."""
    deferred = 400 <= code < 500
    return ActionFailed(
        "EMAIL_DEFERRED" if deferred else "EMAIL_REFUSED",
        f"nothing was sent: the mail server refuses {what}: {code} {_words(words)}",
        next_steps=(_LATER if deferred else "mend the message: the server's words say what is wrong",),
        in_trouble=in_trouble or code == _CLOSING,
        smtp_code=code,
    )


def _refused_recipients(refused: Sequence[object]) -> ActionFailed:
    from aiosmtplib import SMTPRecipientRefused

    errors = [error for error in refused if isinstance(error, SMTPRecipientRefused)]
    words = "; ".join(f"{error.recipient}: {error.code} {_words(error.message)}" for error in errors)
    deferred = all(400 <= error.code < 500 for error in errors)
    return ActionFailed(
        "EMAIL_DEFERRED" if deferred else "EMAIL_RECIPIENT_REFUSED",
        f"nothing was sent, to anybody: the mail server refuses {words}",
        next_steps=(_LATER if deferred else "leave out or mend the recipients that it names",),
        in_trouble=any(error.code == _CLOSING for error in errors),
        refused=",".join(error.recipient for error in errors),
    )


def _words(text: str) -> str:
    """What a server says, as one line that can be shown."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return excerpt(" ".join(shown.split()), _MOST_WORDS)
