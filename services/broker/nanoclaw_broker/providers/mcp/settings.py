"""The table `[mcp]` of config/providers.toml: which servers there are, and which of their tools agents may call."""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.addresses import is_this_machine
from nanoclaw_broker.providers.base import Section

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class ToolSettings(Section):
    """`[mcp.servers.NAME.tools.TOOL]`. kind: what a call does to the world, as the operator judges, not the server.

    unknown_ends_by: `harmless` where repeating a call does no harm; `none` needs L3. cost_micros: of a call, in micros
    of a dollar. seconds: how long a call may take.
    """

    level: Literal["L1", "L2", "L3"]
    kind: Literal["read", "mutating"]
    unknown_ends_by: Literal["harmless", "none"] = "none"
    cost_micros: int = Field(default=0, ge=0)
    seconds: float = Field(default=20.0, gt=0, le=24)
    description: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _check_together(self) -> "ToolSettings":
        if self.kind == "mutating" and self.level == "L1":
            raise ValueError("a mutating tool is of L2 or L3")
        if self.kind == "mutating" and self.unknown_ends_by == "none" and self.level != "L3":
            raise ValueError("nobody could say what became of a call: level = 'L3', or unknown_ends_by = 'harmless'")
        return self

    @property
    def access_level(self) -> Level:
        """The level."""
        return Level[self.level]


class ServerSettings(Section):
    """`[mcp.servers.NAME]`: a command to start, which speaks over stdin and stdout, or the URL of streamable HTTP.

    environment: variables for the command, beside PATH, HOME and the like. secrets: variables whose values are secrets
    of the broker, by their names. bearer_secret: sent as `Authorization: Bearer` to the URL.
    """

    command: list[str] = Field(default_factory=list)
    folder: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)
    url: str = ""
    bearer_secret: str = ""
    tools: dict[str, ToolSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_together(self) -> "ServerSettings":
        if bool(self.command) == bool(self.url):
            raise ValueError("name either command or url")
        if self.url and (self.environment or self.secrets or self.folder):
            raise ValueError("environment, secrets and folder belong to a command")
        if self.command and self.bearer_secret:
            raise ValueError("bearer_secret belongs to a url")
        return self

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        """https, or http on this machine: what is sent there is not for others."""
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
            raise ValueError("must be http(s)://host[:port]/path, without user and fragment")
        if parts.scheme == "http" and not is_this_machine(parts.hostname):
            raise ValueError("must be https beyond this machine")
        return url

    @property
    def wanted_secrets(self) -> tuple[str, ...]:
        """Names of the secrets without which it can't be reached."""
        return (*sorted(set(self.secrets.values())), *((self.bearer_secret,) if self.bearer_secret else ()))


class McpSettings(Section):
    """See docs/providers.md. Each tool becomes the action NAME_TOOL."""

    servers: dict[str, ServerSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> "McpSettings":
        names = [action_name(server, tool) for server, given in self.servers.items() for tool in given.tools]
        wrong = [name for name in (*self.servers, *names) if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no name for an action: small letters, digits and _, 64 at the most")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two tools would be the action {min(twice)}")
        return self


def action_name(server: str, tool: str) -> str:
    """What a tool is called as an action."""
    return f"{server}_{re.sub(r'[^a-z0-9]+', '_', tool.lower())}"
