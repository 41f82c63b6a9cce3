"""One trace as a tree for the terminal: who did what for how long, children under parents."""

from collections import defaultdict
from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree

from nanoclaw_cli.collector import Span

_COLOURS = {"governance": "cyan", "dispatcher": "green", "gateway": "yellow", "broker": "magenta", "agent": "blue"}
_BY = "nanoclaw.principal"
_SHOWN = ("from", "to", "group", "provider", "action", "level", "type", "decision", "reason", "outcome")


def tree(spans: Sequence[Span], title: str) -> Tree:
    """A Rich tree of the spans of one trace; a span whose parent is not there hangs from the root."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        children[span.parent_id if span.parent_id in known else ""].append(span)
    root = Tree(Text(title, style="bold"))
    origin = min((span.start_ns for span in spans), default=0)
    stack = [("", root)]
    while stack:
        parent, branch = stack.pop()
        for span in children[parent]:
            stack.append((span.span_id, branch.add(_line(span, origin))))
    return root


def _line(span: Span, origin: int) -> Text:
    service = span.service.removeprefix("nanoclaw-")
    facts = " ".join(
        f"{key.rpartition('.')[2]}={value}"
        for key, value in span.attributes.items()
        if key.rpartition(".")[2] in _SHOWN and value
    )
    if by := span.attributes.get(_BY):
        facts = f"by={by} {facts}"
    return Text.assemble(
        (f"{service:<11}", _COLOURS.get(service, "white")),
        (span.name.rpartition(".")[2] if "/" in span.name else span.name, "bold"),
        (f"  +{(span.start_ns - origin) / 1e6:.0f} ms, {(span.end_ns - span.start_ns) / 1e6:.1f} ms", "dim"),
        (f"  {facts}" if facts else "", ""),
        (f"  {span.error}" if span.error else "", "red"),
    )
