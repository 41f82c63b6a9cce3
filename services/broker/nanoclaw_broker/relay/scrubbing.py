"""Events of a stream without the broker's secrets, also where one is spread over several events."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nanoclaw_broker.secrets import Secrets

_TEXTS = ("text", "partial_json", "thinking")


class _Held(NamedTuple):
    kind: str
    name: str
    text: str


class StreamScrubber:
    """One stream's. What could be the beginning of a secret is held back until more of the text has come."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._held: dict[Any, _Held] = {}

    def event(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The events to pass on for one that came: none, one or two."""
        index, delta = event.get("index"), event.get("delta")
        if event["type"] == "content_block_delta" and isinstance(delta, Mapping):
            for name in _TEXTS:
                if isinstance(delta.get(name), str):
                    return self._delta(event, delta, name)
        scrubbed = self._secrets.scrub_value(dict(event))
        if event["type"] == "content_block_stop" and (held := self._held.pop(index, None)) is not None and held.text:
            rest = {"type": held.kind, held.name: held.text}
            return [{"type": "content_block_delta", "index": index, "delta": rest}, scrubbed]
        return [scrubbed]

    def _delta(self, event: Mapping[str, Any], delta: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        index = event.get("index")
        held = self._held.pop(index, None)
        text = self._secrets.scrub((held.text if held is not None and held.name == name else "") + delta[name])
        keep = self._secrets.open_end(text)
        shown = text[: len(text) - keep]
        self._held[index] = _Held(str(delta.get("type")), name, text[len(shown) :])
        if not shown:
            return []
        return [{**self._secrets.scrub_value({**event, "delta": {**delta, name: ""}}), "delta": {**delta, name: shown}}]
