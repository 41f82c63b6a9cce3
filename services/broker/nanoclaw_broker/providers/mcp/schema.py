"""What a server says of its tool's parameters, as a JSON Schema that is enforced here, without asking anybody."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.mcp.cpu_limit import TookTooLong, within

MOST_SCHEMA = 64 * 1024
SCHEMA_SECONDS = 2.0
"""Of the processor's time, for a look at the schema itself."""
CHECK_SECONDS = 0.2
"""And for one check by it: a pattern or references of the schema could make it last for ever."""
REST_SECONDS = 10.0
"""How long no check by a schema is tried after one that took too long, so that nobody keeps the broker busy with it."""
_MOST_PROBLEMS = 10
_MOST_WORDS = 200
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class SchemaRefused(Exception):
    """It can't be enforced; its text says why."""


class CheckTooSlow(Exception):
    """Nobody knows whether the parameters fit."""


class Schema:
    """A JSON Schema. Raises SchemaRefused for one that is too large, or refers to another document."""

    def __init__(self, document: Mapping[str, Any], monotonic: Callable[[], float] = time.monotonic) -> None:
        self.text = json.dumps(document, separators=(",", ":"))
        if len(self.text) > MOST_SCHEMA:
            raise SchemaRefused(f"it is larger than {MOST_SCHEMA} characters")
        for reference in _references(document):
            if not isinstance(reference, str) or not reference.startswith("#"):
                raise SchemaRefused("it refers to another document")
        self._document = document
        self._validator: Any = None
        self._refused = ""
        self._monotonic = monotonic
        self._rests_until = 0.0

    def problems(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """What does not fit, without any value that was sent.

        Raises CheckTooSlow; SchemaRefused where it is no JSON Schema, or refers to nowhere.
        """
        if self._monotonic() < self._rests_until:
            raise CheckTooSlow
        self._look()
        try:
            return within(CHECK_SECONDS, lambda: self._problems(arguments))
        except TookTooLong:
            self._rests_until = self._monotonic() + REST_SECONDS
            raise CheckTooSlow from None

    def _look(self) -> None:
        """At the first check, since a server may have thousands of tools."""
        # Imported here: a broker without MCP servers does not pay for it; and not where it could be broken off.
        import jsonschema  # type: ignore[import-untyped]  # noqa: F401
        import referencing.jsonschema  # noqa: F401

        if self._validator is None and not self._refused:
            try:
                self._validator = within(SCHEMA_SECONDS, lambda: _validator(self._document))
            except (SchemaRefused, TookTooLong) as error:
                self._refused = str(error) or "a look at it takes too long"
        if self._refused:
            raise SchemaRefused(self._refused)

    def _problems(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        from referencing.exceptions import Unresolvable

        try:
            found = sorted(self._validator.iter_errors(dict(arguments)), key=lambda error: error.json_path)
        except (Unresolvable, RecursionError) as error:
            raise SchemaRefused(f"it can't be followed: {type(error).__name__}") from None
        return tuple(f"{error.json_path[2:102] or 'params'}: {_asked(error)}" for error in found[:_MOST_PROBLEMS])


def _validator(document: Mapping[str, Any]) -> Any:
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for  # type: ignore[import-untyped]
    from referencing import Registry

    kind = validator_for(document, default=Draft202012Validator)
    try:
        kind.check_schema(document)
    except SchemaError as error:
        raise SchemaRefused(f"it is not a JSON Schema: {excerpt(error.message, _MOST_WORDS)}") from None
    # An empty registry: nothing is fetched, whatever it says.
    return kind(document, registry=Registry())


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
