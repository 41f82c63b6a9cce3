"""An offer as the MCP tool that a model is shown: name, words, schema, hints."""

from collections.abc import Iterable, Mapping
from typing import Any

from mcp_types import Tool, ToolAnnotations

from nanoclaw_agent.offer import Offer, tool_name
from nanoclaw_agent.params_schema import embed

MEMBERS = ("params", "task_id", "idempotency_key")
"""What such a tool takes."""

_LEVELS = {1: "L1, reading", 2: "L2, writing", 3: "L3, what can't be repeated safely"}
_ONCE = "The same idempotency_key with the same params is carried out once, however often you ask."
_VOTES = (
    "Two others vote on it: denied with APPROVAL_PENDING it waits for them, and asked again with the same"
    " idempotency_key it gives the outcome."
)


def action_tool(offer: Offer, output_schema: Mapping[str, Any] | None) -> Tool:
    """The tool. output_schema: of any answer."""
    return Tool(
        name=tool_name(offer.provider, offer.action),
        description=_description(offer),
        input_schema=_input_schema(offer),
        output_schema=dict(output_schema) if output_schema is not None else None,
        annotations=_hints(offer),
        _meta={
            "nanoclaw/provider": offer.provider,
            "nanoclaw/action": offer.action,
            "nanoclaw/level": offer.level,
        },
    )


def narrowed(ext_call: Tool, offers: Iterable[Offer]) -> Tool:
    """The tool that calls any action by its name, its schema naming those that may be called now."""
    found = list(offers)
    schema = ext_call.input_schema
    properties = {
        **schema["properties"],
        "provider": {"type": "string", "enum": sorted({offer.provider for offer in found})},
        "action": {"type": "string", "enum": sorted({offer.action for offer in found})},
    }
    return ext_call.model_copy(update={"input_schema": {**schema, "properties": properties}})


def _description(offer: Offer) -> str:
    level = _LEVELS[offer.level]
    if offer.least_level < offer.level:
        level = f"{_LEVELS[offer.least_level]}, or {level}, as the params are"
    words = [f"{offer.provider} {offer.action}, through the broker: {level}."]
    if offer.kind == "mutating":
        words.append(_ONCE)
    if offer.level == 3:
        words.append(_VOTES if offer.least_level == 3 else f"Where it is L3: {_VOTES}")
    if offer.needs_task:
        words.append(_task(offer))
    return "\n\n".join(filter(None, (offer.description, " ".join(words))))


def _task(offer: Offer) -> str:
    products = "" if "" in offer.products else f" of product {' or '.join(offer.products)}"
    gates = "" if "" in offer.gates else f" with its {' or '.join(offer.gates)} gate approved"
    return f"Only for a task{products}{gates}: name it."


def _input_schema(offer: Offer) -> dict[str, Any]:
    embedded = embed(offer.schema)
    return {
        "type": "object",
        "properties": {
            "params": embedded.params,
            "task_id": {"type": "string", "description": "the task that it is for"},
            "idempotency_key": {"type": "string", "description": "of your own choosing, one for each effect"},
        },
        "required": ["params", "task_id"] if offer.needs_task else ["params"],
        "additionalProperties": False,
        **embedded.beside,
    }


def _hints(offer: Offer) -> ToolAnnotations:
    """Only what is known: of writing, nobody says whether it destroys something or adds to it."""
    title = f"{offer.provider} {offer.action}"
    if offer.kind in ("pure", "read"):
        return ToolAnnotations(
            title=title,
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=offer.kind == "read",
        )
    if offer.kind == "mutating":
        destructive = True if offer.level == 3 else None
        return ToolAnnotations(title=title, read_only_hint=False, destructive_hint=destructive, open_world_hint=True)
    return ToolAnnotations(title=title)
