"""An action's schema inside its tool's: it lets the same parameters pass as before, wherever its references lead."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from nanoclaw_agent.action_tool import action_tool
from nanoclaw_agent.offer import Offer
from nanoclaw_agent.params_schema import DEEPEST, LARGEST, OPEN, embed
from nanoclaw_broker.providers import Environment
from nanoclaw_broker.providers.builtin import BUILTIN

TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "inner": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "required": ["name"],
        }
    },
}
SELF = {
    "type": "object",
    "properties": {"a/b": {"type": "integer"}, "same": {"$ref": "#/properties/a~1b"}, "me": {"$ref": "#"}},
}
OLD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "definitions": {"n": {"type": "integer"}},
    "type": "object",
    "properties": {"n": {"$ref": "#/definitions/n"}},
}
NAMED_LIKE_KEYWORDS = {
    "type": "object",
    "properties": {
        "$ref": {"type": "string"},
        "default": {"$ref": "#/properties/enum"},
        "enum": {"type": "integer"},
    },
    "default": {"$ref": "#/nowhere"},
}
values = st.recursive(
    st.none() | st.integers(-2, 2) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "inner", "a/b", "same", "me", "n", "$ref", "default", "enum"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)

tries = settings(max_examples=60)


def input_schema(schema: Any) -> dict[str, Any]:
    """Of the tool of an action that takes such parameters."""
    offer = Offer("p", "a", "does", 1, 1, "read", schema)
    return action_tool(offer, None).input_schema


def passes(schema: Mapping[str, Any], value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize("schema", [TREE, SELF, OLD, NAMED_LIKE_KEYWORDS], ids=["tree", "self", "old", "keywords"])
@tries
@given(value=values)
def test_the_same_parameters_pass(schema: dict[str, Any], value: Any) -> None:
    """Through $defs, definitions, the root itself and paths into it; a member called like a keyword is no keyword."""
    assert embed(schema) is not OPEN
    given_params = {"params": value}
    assert passes(input_schema(schema), given_params) == (passes(schema, value) and isinstance(value, dict))


def test_definitions_stand_at_the_root() -> None:
    """Where clients that turn schemas into something else look for them."""
    whole = input_schema(TREE)
    assert set(whole["$defs"]) == {"Node"}
    assert whole["properties"]["params"] == {"$ref": "#/$defs/Node"}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        "object",
        {"type": "string"},
        {"type": "nonsense"},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.test/schema.json"}}},
        {"type": "object", "properties": {"a": {"$ref": 1}}},
        {"type": "object", "properties": {"a": {"$dynamicRef": "#x"}}},
        {"type": "object", "properties": {"a": {"$id": "https://example.test/a", "type": "string"}}},
        {"type": "object", "description": "x" * LARGEST},
    ],
)
def test_what_can_not_be_moved_or_is_no_schema_lets_anything_pass(schema: Any) -> None:
    """One bad schema would have a model's API refuse the whole list; the broker looks at the parameters anyway."""
    whole = input_schema(schema)
    Draft202012Validator.check_schema(whole)
    assert whole["properties"]["params"] == {"type": "object"}


def test_a_schema_that_nests_too_deep_lets_anything_pass() -> None:
    """It is never walked."""
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(DEEPEST * 40):
        deep = {"type": "object", "properties": {"a": deep}}
    assert embed(deep) is OPEN


def test_the_schemas_of_all_built_in_actions_can_be_moved() -> None:
    """None of them is lost on the way to a model."""
    environment = Environment(Path("/nowhere"))
    for factory in BUILTIN:
        for action in factory(environment).actions:
            schema = json.loads(action.params_schema)
            assert embed(schema) is not OPEN, action.name
            Draft202012Validator.check_schema(input_schema(schema))
