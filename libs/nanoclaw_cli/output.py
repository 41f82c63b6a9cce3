"""What a command says: tables and fields for people, JSON for programs, errors in one line."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from nanoclaw_cli.invocation import current
from nanoclaw_cli.words import as_typed
from nanoclaw_core.errors import NanoclawError

Columns = Mapping[str, Callable[[Any], object]]
"""Heading → what stands under it, of an item."""

STATE_STYLES = {
    "DOING": "green",
    "REVIEW": "yellow",
    "APPROVAL": "magenta",
    "DONE": "bold green",
    "BLOCKED": "bold red",
    "FAILED": "bold red",
    "UNKNOWN": "bold red",
    "DENIED": "red",
    "AWAITING_APPROVAL": "magenta",
    "REJECTED": "red",
    "EXECUTED": "green",
    "STARTED": "green",
}
PIPED_WIDTH = 200
"""Columns where there is no terminal to fit into: enough that nothing is cut."""


_UNSEEN = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"},
    127: "␡",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
}
"""What would steer a terminal or turn its text around, by what is shown for it: agents choose titles and reasons."""


class Terminal(Console):
    """A Rich console on which nothing that somebody wrote can act."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See Console."""
        for segment in super().render(renderable, options):
            text = segment.text.translate(_UNSEEN) if segment.control is None else segment.text
            yield segment if text == segment.text else Segment(text, segment.style)


def console(*, stderr: bool = False) -> Console:
    """Where people read."""
    fits = (sys.stderr if stderr else sys.stdout).isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Terminal(highlight=False, stderr=stderr, width=None if fits else PIPED_WIDTH)


def as_dict(message: Message) -> dict[str, Any]:
    """A message as JSON has it, under the names of the contract, with every field."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def say_json(value: Any) -> None:
    """One JSON value and a line break."""
    if isinstance(value, Message):
        value = as_dict(value)
    elif isinstance(value, list):
        value = [as_dict(item) if isinstance(item, Message) else item for item in value]
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


def say_line(value: Any) -> None:
    """One JSON value on one line, for streams."""
    value = as_dict(value) if isinstance(value, Message) else value
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for people."""
    console().print(text, markup=False, soft_wrap=True)


def show(message: Message, fields: Iterable[tuple[str, str]], line: str = "") -> None:
    """A thing: as JSON, or a line about it and its fields, the empty ones left out."""
    if current().as_json:
        say_json(message)
        return
    if line:
        say(line)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, Text(value, style=STATE_STYLES.get(value, "")))
    console().print(table)


def show_list(items: Sequence[Any], columns: Columns, none: str) -> None:
    """Things: as a JSON list, or a table. columns: heading → function of an item. none: what to say of no items."""
    if current().as_json:
        say_json(list(items))
        return
    if not items:
        say(none)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        table.add_column(heading, overflow="fold")
    for item in items:
        values = [str(column(item)) for column in columns.values()]
        table.add_row(*(Text(value, style=STATE_STYLES.get(value, "")) for value in values))
    console().print(table)


def say_error(error: NanoclawError, as_json: bool) -> None:
    """Reason, message and next step in one line; a line more for each rule broken where there are several."""
    if as_json:
        say_line({"error": error_dict(error)})
        return
    out = console(stderr=True)
    several = error.violations if len(error.violations) > 1 else ()
    own = "" if any(error.next_step == one.next_step for one in several) else error.next_step
    step = f"; next step: {as_typed(own)}" if own else ""
    out.print(Text.assemble(("error ", "bold red"), f"{error.reason}: {error.message}{step}"), soft_wrap=True)
    for violation in several:
        after = f" → {as_typed(violation.next_step)}" if violation.next_step else ""
        out.print(Text(f"  {violation.code}: {violation.message}{after}"), soft_wrap=True)


def say_warning(text: str) -> None:
    """A line for people beside an answer, which stays as it is."""
    console(stderr=True).print(Text.assemble(("warning ", "bold yellow"), text), soft_wrap=True)


def error_dict(error: NanoclawError) -> dict[str, Any]:
    """An error for programs."""
    return {
        "kind": error.kind.value,
        "reason": error.reason,
        "message": error.message,
        "next_step": as_typed(error.next_step),
        "facts": dict(error.facts),
        "violations": [
            {"code": one.code, "message": one.message, "next_step": as_typed(one.next_step), "field": one.field}
            for one in error.violations
        ],
    }
