"""The schema of an action's parameters, moved into the schema of a tool that takes them as its member `params`.

One schema that is none can make a model's API refuse the whole list of tools, so what can't be moved or checked is
replaced by one that lets anything pass: the broker looks at the parameters anyway.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

LARGEST = 64 * 1024
DEEPEST = 64

_MEMBER = "#/properties/params"
_HOISTED = ("$defs", "definitions", "$schema")
_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"})
"""Their members are schemas under names of any kind; elsewhere a member's name is a keyword."""
_DATA = frozenset({"const", "enum", "default", "examples"})
_RELATIVE = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"})


class Embedded(NamedTuple):
    """params: what to put under the member `params`. beside: what belongs to the root of the tool's schema."""

    params: Mapping[str, Any]
    beside: Mapping[str, Any]


OPEN = Embedded({"type": "object"}, {})
"""Any object."""


def embed(schema: Any) -> Embedded:
    """The schema in two parts, with its references right where they are put; OPEN where that can't be done."""
    if not isinstance(schema, dict) or _deeper_than(schema, DEEPEST):
        return OPEN
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError):
        return OPEN
    return _embed(text) if len(text) <= LARGEST else OPEN


@lru_cache(maxsize=4096)
def _embed(text: str) -> Embedded:
    from jsonschema import SchemaError  # type: ignore[import-untyped]
    from jsonschema.validators import Draft202012Validator, validator_for  # type: ignore[import-untyped]

    schema = json.loads(text)
    schema.pop("$id", None)
    if schema.get("type", "object") != "object":
        return OPEN
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
        moved = _moved(schema, schema)
    except (SchemaError, _Immovable, RecursionError):
        return OPEN
    beside = {name: moved.pop(name) for name in _HOISTED if name in moved}
    return Embedded(moved, beside)


class _Immovable(Exception):
    """It refers to something by other means than a path from its root."""


def _moved(part: Any, root: Any, *, by_name: bool = False) -> Any:
    if isinstance(part, list):
        return [_moved(one, root) for one in part]
    if not isinstance(part, dict):
        return part
    if by_name:
        return {name: _moved(one, root) for name, one in part.items()}
    if "$id" in part or not _RELATIVE.isdisjoint(part):
        raise _Immovable
    moved = {
        name: one if name in _DATA else _moved(one, root, by_name=name in _BY_NAME)
        for name, one in part.items()
        if name != "$ref"
    }
    return {"$ref": _reference(part["$ref"], root), **moved} if "$ref" in part else moved


def _reference(reference: Any, root: Any) -> str:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise _Immovable
    steps = [step.replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:]]
    found = root
    for step in steps:
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise _Immovable
    return reference if steps and steps[0] in _HOISTED else _MEMBER + reference[1:]


def _deeper_than(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
