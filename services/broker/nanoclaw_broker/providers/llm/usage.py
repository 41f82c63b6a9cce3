"""What a request may cost at the most, and what an answer has cost so far."""

import math
from collections.abc import Mapping
from typing import Any

from nanoclaw_broker.providers.llm.body import MessagesParams, weigh
from nanoclaw_broker.providers.llm.settings import Model

_OVERHEAD_TOKENS = 2_000
"""What the API puts in besides: the instructions for tools."""
_IMAGE_TOKENS = 5_000
"""Of the largest image that it does not make smaller."""


def worst_micros(params: MessagesParams, encoded: bytes, model: Model, bytes_per_token: float) -> int:
    """What a request costs at the most. A token is at least one byte; a document may fill the whole context."""
    heavy = weigh(params)
    tokens = model.context_tokens
    if not heavy.documents:
        text = math.ceil((len(encoded) - heavy.data) / bytes_per_token)
        tokens = min(tokens, text + _OVERHEAD_TOKENS + heavy.images * _IMAGE_TOKENS)
    dearest = model.dearest_input(cached=b'"cache_control"' in encoded, an_hour=b'"1h"' in encoded)
    return math.ceil(tokens * dearest + params.max_tokens * model.output)


class Meter:
    """Counts along with an answer, as it comes. most_tokens: of the answer."""

    def __init__(self, model: Model, most_tokens: int) -> None:
        self._model = model
        self._most_tokens = most_tokens
        self._seen_bytes = 0
        self._final = False
        self.usage: dict[str, Any] = {}
        self.stop_reason = ""

    def message(self, message: Mapping[str, Any]) -> None:
        """A whole answer."""
        self._take(message.get("usage"))
        self.stop_reason = str(message.get("stop_reason") or "")
        self._final = True

    def event(self, event: Mapping[str, Any]) -> None:
        """One event of a stream."""
        match event.get("type"):
            case "message_start" if isinstance(event.get("message"), Mapping):
                self._take(event["message"].get("usage"))
            case "content_block_delta" if isinstance(event.get("delta"), Mapping):
                texts = [text for name, text in event["delta"].items() if name != "type" and isinstance(text, str)]
                self._seen_bytes += sum(len(text.encode(errors="replace")) for text in texts)
            case "message_delta":
                self._take(event.get("usage"))
                delta = event.get("delta")
                self.stop_reason = str(delta.get("stop_reason") or "") if isinstance(delta, Mapping) else ""
                self._final = bool(self.usage)

    def _take(self, usage: Any) -> None:
        if isinstance(usage, Mapping):
            self.usage |= {name: value for name, value in usage.items() if value is not None}

    @property
    def output_tokens(self) -> int:
        """Of the answer so far; of one that was broken off, the most that it can be."""
        said = self.usage.get("output_tokens")
        said = said if isinstance(said, int) and said > 0 else 0
        return said if self._final else max(said, min(self._seen_bytes, self._most_tokens))

    @property
    def micros(self) -> int | None:
        """What it cost so far; None where the API has not said anything of it yet."""
        return self._model.micros(self.usage, self.output_tokens) if self.usage else None

    @property
    def summary(self) -> str:
        """One line for the ledger."""
        read = sum(n for name, n in self.usage.items() if name.endswith("input_tokens") and isinstance(n, int))
        return f"{read} tokens in, {self.output_tokens} out" + (f", {self.stop_reason}" if self.stop_reason else "")
