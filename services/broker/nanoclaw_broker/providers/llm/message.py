"""A message put together from the events of its stream."""

import json
from collections.abc import Mapping
from typing import Any

_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class Assembly:
    """One message, as it comes."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes one event; unknown kinds add nothing. Raises LookupError, TypeError for what is no such event."""
        match event["type"]:
            case "message_start":
                self._message = dict(event["message"])
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "message_delta":
                self._message |= event["delta"]
                self._message["usage"] = {**self._message.get("usage", {}), **(event.get("usage") or {})}

    def _delta(self, index: int, delta: Mapping[str, Any]) -> None:
        kind, block = delta["type"], self._blocks[index]
        if kind in _TEXTS:
            name = _TEXTS[kind]
            block[name] = block.get(name, "") + delta[name]
        elif kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]

    def message(self) -> dict[str, Any]:
        """The whole. Raises ValueError where a tool's input is no JSON."""
        for index, text in self._inputs.items():
            self._blocks[index]["input"] = json.loads(text or "{}")
        return {**self._message, "content": [self._blocks[index] for index in sorted(self._blocks)]}
