"""The message as it goes over the wire: built from checked parts, so that nothing in them can become a header."""

from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

_POLICY = SMTP.clone(cte_type="7bit", utf8=False)
"""ASCII alone goes over the wire, so that every server takes it; a header of more than one line raises."""


def message_id(key: str, domain: str) -> str:
    """The same for the same call, so that the message can be found in a mailbox by the call's id."""
    return f"<{key}@{domain}>"


def written(
    *,
    id: str,
    date: datetime,
    sender: str,
    to: tuple[str, ...],
    cc: tuple[str, ...],
    reply_to: str,
    subject: str,
    text: str,
    html: str,
) -> bytes:
    """The message with CRLF ends of lines."""
    message = EmailMessage(_POLICY)
    message["From"] = sender
    message["To"] = ", ".join(to)
    if cc:
        message["Cc"] = ", ".join(cc)
    if reply_to:
        message["Reply-To"] = reply_to
    message["Subject"] = subject
    message["Date"] = format_datetime(date)
    message["Message-ID"] = id
    # So that no absence notice answers a machine.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    return message.as_bytes()
