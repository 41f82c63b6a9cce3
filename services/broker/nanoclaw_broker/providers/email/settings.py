"""The table `[email]` of config/providers.toml: the mail server, who may be written to, and in whose name."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from nanoclaw_broker.providers.addresses import is_this_machine
from nanoclaw_broker.providers.base import Section

SECRET = "email_password"  # noqa: S105 - a file's name
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
_ADDRESS = re.compile(rf"(?=.{{3,254}}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.-]{{1,64}}@{_DOMAIN}", re.IGNORECASE)
_RECIPIENT = re.compile(rf"(?:\*\.)?{_DOMAIN}", re.IGNORECASE)
_PORTS = {"starttls": 587, "tls": 465, "plain": 25}


def is_address(text: str) -> bool:
    """Whether it is a mail address, bare and in ASCII: no name, no comment, no quotes."""
    return _ADDRESS.fullmatch(text) is not None


def domain_of(address: str) -> str:
    """What follows the @."""
    return address.rpartition("@")[2].lower()


class EmailSettings(Section):
    """See docs/providers.md.

    senders: addresses to write as, the first where none is named. recipients: addresses, domains, `*.domain` for all
    below it, or `*` for anybody. ca_file: whom to trust beside the system's authorities.
    """

    host: str = ""
    port: int = Field(default=0, ge=0, le=65535)
    security: Literal["starttls", "tls", "plain"] = "starttls"
    ca_file: str | None = None
    username: str = Field(default="", max_length=320)
    senders: list[str] = Field(default_factory=list)
    recipients: list[str] = Field(default_factory=list)

    @field_validator("senders")
    @classmethod
    def _check_senders(cls, senders: list[str]) -> list[str]:
        if not all(map(is_address, senders)):
            raise ValueError("must be addresses like agents@example.org")
        return senders

    @field_validator("recipients")
    @classmethod
    def _check_recipients(cls, recipients: list[str]) -> list[str]:
        if not all(
            one == "*" or _RECIPIENT.fullmatch(one) or (is_address(one) and "*" not in one) for one in recipients
        ):
            raise ValueError("must be addresses, domains, *.domain or *")
        return recipients

    @model_validator(mode="after")
    def _check_together(self) -> "EmailSettings":
        if not self.host:
            return self
        if not self.senders:
            raise ValueError("senders must name the address to write as")
        if self.security == "plain" and not is_this_machine(self.host):
            raise ValueError("security = 'plain' is for a server on this machine only: use starttls or tls")
        return self

    @property
    def at_port(self) -> int:
        """The port, or the usual one."""
        return self.port or _PORTS[self.security]

    def lets_reach(self, address: str) -> bool:
        """Whether the address may be written to."""
        domain = domain_of(address)
        return any(_lets(one.lower(), address.lower(), domain) for one in self.recipients)


def _lets(entry: str, address: str, domain: str) -> bool:
    if entry.startswith("*."):
        return domain.endswith(entry[1:])
    return entry in ("*", address, domain)
