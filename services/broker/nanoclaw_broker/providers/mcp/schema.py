"""What a server says of its tool's parameters, as a JSON Schema that is enforced here, without asking anybody."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nanoclaw_broker.excerpt import excerpt

MOST_SCHEMA = 64 * 1024
_MOST_PROBLEMS = 10
_MOST_WORDS = 200
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class SchemaRefused(Exception):
    """It can't be enforced; its text says why."""


class Schema:
    """A JSON Schema. Raises SchemaRefused for one that is none, is too large, or refers to another document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        # Imported here: a broker without MCP servers does not pay for it.
        from jsonschema import SchemaError  # type: ignore[import-untyped]
        from jsonschema.validators import Draft202012Validator, validator_for  # type: ignore[import-untyped]
        from referencing import Registry

        self.text = json.dumps(document, separators=(",", ":"))
        if len(self.text) > MOST_SCHEMA:
            raise SchemaRefused(f"it is larger than {MOST_SCHEMA} characters")
        for reference in _references(document):
            if not isinstance(reference, str) or not reference.startswith("#"):
                raise SchemaRefused("it refers to another document")
        kind = validator_for(document, default=Draft202012Validator)
        try:
            kind.check_schema(document)
        except SchemaError as error:
            raise SchemaRefused(f"it is not a JSON Schema: {excerpt(error.message, _MOST_WORDS)}") from None
        # An empty registry: nothing is fetched, whatever it says.
        self._validator = kind(document, registry=Registry())

    def problems(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """What does not fit, without any value that was sent. Raises SchemaRefused for a reference to nowhere."""
        from referencing.exceptions import Unresolvable

        try:
            found = sorted(self._validator.iter_errors(dict(arguments)), key=lambda error: error.json_path)
        except (Unresolvable, RecursionError) as error:
            raise SchemaRefused(f"it can't be followed: {type(error).__name__}") from None
        return tuple(f"{error.json_path[2:102] or 'params'}: {_asked(error)}" for error in found[:_MOST_PROBLEMS])


def _asked(error: Any) -> str:
    """Of what the schema asks, not what was sent."""
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return excerpt(f"lacks {', '.join(missing)}", _MOST_WORDS)
    if error.validator == "additionalProperties":
        return "has members that are not known"
    return excerpt(f"must have {error.validator} {json.dumps(error.validator_value)}", _MOST_WORDS)


def _references(document: Any) -> Iterator[Any]:
    """Everything in it that refers to something."""
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            yield from (one[name] for name in _REFERENCES if name in one)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
