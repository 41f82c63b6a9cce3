"""What a request to the messages API may hold: everything that stays between the agent and the model.

Left out is what would have the provider reach further for the agent: tools that run at the provider, MCP servers,
sources by URL, files kept there. An agent reaches the outside through the broker's other providers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from nanoclaw_broker.providers.base import Params, Refused

MOST_TOKENS = 1_000_000
_RUN_BY_THE_AGENT = ("bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_")
_SOURCES = frozenset({"base64", "text", "content"})

_Blocks = list[dict[str, Any]]


class CountParams(Params):
    """What `count_tokens` takes: the messages API's own members."""

    model: str = Field(min_length=1, max_length=200, description="one of the operator's list")
    messages: _Blocks = Field(min_length=1, description="[{role, content}], as the messages API has them")
    system: str | _Blocks | None = None
    tools: _Blocks | None = Field(default=None, description="tools that the agent runs itself")
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None


class MessagesParams(CountParams):
    """What `messages` takes."""

    max_tokens: int = Field(ge=1, le=MOST_TOKENS, description="the answer ends there; it is paid for beforehand")
    stream: bool = Field(default=False, description="the relay passes events on as they come; a call answers the whole")
    metadata: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """What besides its text makes a request heavy. data: bytes of images and documents as they stand there."""

    images: int = 0
    documents: int = 0
    data: int = 0


def check(params: CountParams) -> None:
    """Raises Refused SERVER_TOOL_NOT_ALLOWED, SOURCE_NOT_ALLOWED."""
    for tool in params.tools or ():
        kind = tool.get("type", "custom")
        if kind not in (None, "custom") and not str(kind).startswith(_RUN_BY_THE_AGENT):
            raise Refused(
                "SERVER_TOOL_NOT_ALLOWED",
                f"tools: {str(kind)[:100]} runs at the provider, out of the broker's sight",
                "leave it out, and use the broker's own providers, such as http",
            )
    for part in _parts(params):
        source = part.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if "file_id" in part or (isinstance(source, dict) and (kind not in _SOURCES or "file_id" in source)):
            raise Refused(
                "SOURCE_NOT_ALLOWED",
                f"messages: a source of type {str(kind or 'file')[:20]} has the provider fetch it",
                "send the content itself, as base64 or text",
            )


def weigh(params: CountParams) -> Weight:
    """Counts images and documents."""
    images = documents = data = 0
    for part in _parts(params):
        if part.get("type") not in ("image", "document"):
            continue
        source = part.get("source")
        content = source.get("data") if isinstance(source, dict) and source.get("type") == "base64" else None
        if not isinstance(content, str):
            continue
        data += len(content)
        images, documents = images + (part["type"] == "image"), documents + (part["type"] == "document")
    return Weight(images, documents, data)


def _parts(params: CountParams) -> Iterator[Mapping[str, Any]]:
    """Every object within messages and system, but for what an agent's own tools were called with."""
    heap: list[Any] = [params.messages, params.system]
    while heap:
        one = heap.pop()
        if isinstance(one, list):
            heap.extend(one)
        elif isinstance(one, dict):
            yield one
            heap.extend(value for name, value in one.items() if name != "input")
