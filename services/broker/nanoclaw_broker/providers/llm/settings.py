"""The table `[llm]` of config/providers.toml: where the messages API is, which models may be asked, what they cost."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import httpx
from pydantic import Field, field_validator

from nanoclaw_broker.providers.addresses import is_this_machine
from nanoclaw_broker.providers.base import Section

SECRET = "llm_api_key"  # noqa: S105 - a file's name
_CACHE_WRITE, _CACHE_WRITE_1H, _CACHE_READ = 1.25, 2.0, 0.1
"""What the cache costs, as a multiple of the price of input, where nothing else is said."""


class Model(Section):
    """A model's prices, in dollars per million tokens, which is micros per token; and how large its context is."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cache_write: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cache_write_1h: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cache_read: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    context_tokens: int = Field(default=200_000, ge=1)

    def dearest_input(self, *, cached: bool, an_hour: bool) -> float:
        """The most that a token of input may cost. cached: something is to be written to the cache."""
        if not cached:
            return self.input
        written = self._hour if an_hour else self._write
        return max(self.input, self._write, written)

    def micros(self, usage: Mapping[str, Any], output_tokens: int) -> int:
        """What an answer cost, rounded up. usage: as the API gave it."""
        hour = _tokens(usage.get("cache_creation") or {}, "ephemeral_1h_input_tokens")
        written = max(0, _tokens(usage, "cache_creation_input_tokens") - hour)
        read = self.cache_read if self.cache_read is not None else self.input * _CACHE_READ
        cost = _tokens(usage, "input_tokens") * self.input + written * self._write + hour * self._hour
        return math.ceil(cost + _tokens(usage, "cache_read_input_tokens") * read + output_tokens * self.output)

    @property
    def _write(self) -> float:
        return self.cache_write if self.cache_write is not None else self.input * _CACHE_WRITE

    @property
    def _hour(self) -> float:
        return self.cache_write_1h if self.cache_write_1h is not None else self.input * _CACHE_WRITE_1H


class LlmSettings(Section):
    """See docs/models.md. models: only these may be asked. betas: patterns of the `anthropic-beta` to pass on."""

    base_url: str = "https://api.anthropic.com"
    auth: Literal["x-api-key", "bearer"] = "x-api-key"
    version: str = Field(default="2023-06-01", pattern=r"^\d{4}-\d\d-\d\d$")
    betas: list[str] = Field(default_factory=list)
    bytes_per_token: float = Field(default=1.0, ge=1.0, le=8.0)
    models: dict[str, Model] = Field(default_factory=dict)

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, text: str) -> str:
        """https, or http on this machine only: the key goes there."""
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise ValueError("is not a URL") from None
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
            raise ValueError("must be http(s)://host[:port][/path], without user, query and fragment")
        if url.scheme == "http" and not is_this_machine(url.host):
            raise ValueError("must be https beyond this machine, since the key is sent there")
        return text.rstrip("/")

    def passed_betas(self, asked: str) -> str:
        """Of a list as `anthropic-beta` has it: those that may be passed on."""
        names = [name.strip() for name in asked.split(",")]
        return ",".join(name for name in names if name and any(fnmatchcase(name, one) for one in self.betas))


def _tokens(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
